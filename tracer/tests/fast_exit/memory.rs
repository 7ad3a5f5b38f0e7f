//! The memory of a [`machine`](super::machine): regions at chosen addresses. An access that is not wholly inside of a region is
//! an error.

use std::collections::BTreeMap;

/// Regions by their first address.
#[derive(Default)]
pub struct Memory {
    regions: BTreeMap<u64, Region>,
    looked_up: bool,
}

struct Region {
    bytes: Vec<u8>,
    is_table: bool,
}

impl Memory {
    /// Puts bytes at an address, where they overlap no other region.
    pub fn put(&mut self, at: u64, bytes: impl Into<Vec<u8>>) {
        self.regions.insert(at, Region { bytes: bytes.into(), is_table: false });
    }

    /// Puts a table at an address. An access to it counts as a look-up.
    pub fn put_table(&mut self, at: u64, bytes: impl Into<Vec<u8>>) {
        self.regions.insert(at, Region { bytes: bytes.into(), is_table: true });
    }

    /// Was a table accessed?
    pub fn looked_up(&self) -> bool {
        self.looked_up
    }

    /// Resets [`Self::looked_up`].
    pub fn forget_look_ups(&mut self) {
        self.looked_up = false;
    }

    /// `len` bytes.
    pub fn get(&mut self, at: u64, len: usize) -> Result<&mut [u8], String> {
        let looked_up = &mut self.looked_up;
        let inside = self.regions.range_mut(..=at).next_back().and_then(|(base, region)| {
            *looked_up |= region.is_table;
            let from = usize::try_from(at - base).ok()?;
            region.bytes.get_mut(from..from.checked_add(len)?)
        });
        inside.ok_or_else(|| format!("no {len} bytes at {at:#x}"))
    }

    /// A number of 1 to 8 bytes.
    pub fn load(&mut self, at: u64, len: usize) -> Result<u64, String> {
        let mut word = [0; 8];
        word[..len].copy_from_slice(self.get(at, len)?);
        Ok(u64::from_le_bytes(word))
    }

    /// The lowest `len` bytes of a number.
    pub fn store(&mut self, at: u64, len: usize, value: u64) -> Result<(), String> {
        self.get(at, len)?.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }

    /// Copies as the kernel's `probe_read` helpers do: on a failure it writes zeros and returns `-EFAULT`.
    pub fn copy(&mut self, to: u64, len: u64, from: u64) -> Result<u64, String> {
        let len = usize::try_from(len).map_err(|error| error.to_string())?;
        let bytes = self.get(from, len).map(|bytes| bytes.to_vec());
        let failed = bytes.is_err();
        self.get(to, len)?.copy_from_slice(&bytes.unwrap_or_else(|_| vec![0; len]));
        Ok(if failed { EFAULT } else { 0 })
    }
}

/// `-EFAULT`
const EFAULT: u64 = 14_u64.wrapping_neg();
