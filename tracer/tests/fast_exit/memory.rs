//! The memory of a [`machine`](super::machine): regions at chosen addresses, and hash tables, whose entries are regions. An access
//! that is not wholly inside of a region is an error.

use std::collections::{BTreeMap, HashMap};

/// Regions by their first address.
#[derive(Default)]
pub struct Memory {
    regions: BTreeMap<u64, Vec<u8>>,
    /// Hash tables by their address.
    tables: BTreeMap<u64, Table>,
    looked_up: bool,
}

struct Table {
    key_size: usize,
    value_size: usize,
    /// The address of each key's value.
    values: HashMap<Vec<u8>, u64>,
}

/// The distance between the values of a table, which lie behind its address.
const STRIDE: u64 = 1 << 16;

impl Memory {
    /// Puts bytes at an address, where they overlap no other region.
    pub fn put(&mut self, at: u64, bytes: impl Into<Vec<u8>>) {
        self.regions.insert(at, bytes.into());
    }

    /// Puts an empty hash table at an address.
    pub fn put_table(&mut self, at: u64, key_size: u32, value_size: u32) {
        let (key_size, value_size) = (key_size as usize, value_size as usize);
        self.tables.insert(at, Table { key_size, value_size, values: HashMap::new() });
    }

    /// The address of a key's value, as `bpf_map_lookup_elem` returns it: 0 if the table has none. A map that is not a table
    /// has none either.
    pub fn look_up(&mut self, table: u64, key: u64) -> Result<u64, String> {
        let Some(found) = self.tables.get(&table) else { return Ok(0) };
        let key = read(&self.regions, key, found.key_size)?;
        self.looked_up = true;
        Ok(found.values.get(key).copied().unwrap_or(0))
    }

    /// Inserts or replaces a key's value, as `bpf_map_update_elem` does.
    pub fn update(&mut self, table: u64, key: u64, value: u64, flags: u64) -> Result<u64, String> {
        let Some(found) = self.tables.get_mut(&table) else { return Ok(0) };
        let value = read(&self.regions, value, found.value_size)?.to_vec();
        let key = read(&self.regions, key, found.key_size)?.to_vec();
        if flags & NOEXIST != 0 && found.values.contains_key(&key) {
            return Ok(EEXIST);
        }
        let next = table + (found.values.len() as u64 + 1) * STRIDE;
        let at = *found.values.entry(key).or_insert(next);
        self.regions.insert(at, value);
        Ok(0)
    }

    /// Was a key looked up in a table?
    pub fn looked_up(&self) -> bool {
        self.looked_up
    }

    /// Resets [`Self::looked_up`].
    pub fn forget_look_ups(&mut self) {
        self.looked_up = false;
    }

    /// `len` bytes.
    pub fn get(&mut self, at: u64, len: usize) -> Result<&mut [u8], String> {
        let inside = self.regions.range_mut(..=at).next_back().and_then(|(base, region)| {
            let from = usize::try_from(at - base).ok()?;
            region.get_mut(from..from.checked_add(len)?)
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

/// `len` bytes.
fn read(regions: &BTreeMap<u64, Vec<u8>>, at: u64, len: usize) -> Result<&[u8], String> {
    let inside = regions.range(..=at).next_back().and_then(|(base, region)| {
        let from = usize::try_from(at - base).ok()?;
        region.get(from..from.checked_add(len)?)
    });
    inside.ok_or_else(|| format!("no {len} bytes at {at:#x}"))
}

/// `BPF_NOEXIST`: insert, never replace.
const NOEXIST: u64 = 1;
/// `-EEXIST`
const EEXIST: u64 = 17_u64.wrapping_neg();
/// `-EFAULT`
const EFAULT: u64 = 14_u64.wrapping_neg();
