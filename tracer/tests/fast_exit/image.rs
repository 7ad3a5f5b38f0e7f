//! The kernel object for the [`machine`](super::machine): linked as the loader links it, with addresses in place of the
//! references to maps and their data.

use std::collections::{HashMap, HashSet};

use aya_obj::{
    Object,
    generated::{BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE, bpf_insn, bpf_map_type::BPF_MAP_TYPE_LRU_HASH},
};

use super::memory::Memory;

/// The object that `tracer::probes` loads.
static OBJECT: &[u8] = include_bytes!(env!("EGRESS_TRACER_BPF_OBJECT"));
/// The address of the first map's data, and the distance to the next map's.
const DATA: u64 = 0x6000_0000_0000;
const EACH: u64 = 1 << 32;

/// The linked object.
pub struct Image(Object);

impl Image {
    /// Links the object with these values of globals.
    pub fn link(globals: HashMap<&str, (&[u8], bool)>) -> Self {
        let mut object = Object::parse(OBJECT).expect("the kernel object");
        object.patch_map_data(globals).expect("the globals");
        let maps = object.maps.clone();
        let numbered = maps.iter().zip(0..).map(|((name, map), number)| (name.as_str(), number, map));
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(numbered, &sections).expect("its maps are found");
        object.relocate_calls(&sections).expect("its functions are found");
        Self(object)
    }

    /// A program's instructions, and the memory that they refer to.
    pub fn program(&self, name: &str) -> (Vec<bpf_insn>, Memory) {
        let program = self.0.programs.get(name).unwrap_or_else(|| panic!("no program {name}"));
        let mut code = self.0.functions[&program.function_key()].instructions.clone();
        let mut memory = Memory::default();
        for (map, number) in self.0.maps.values().zip(0..) {
            let at = DATA + number * EACH;
            if map.map_type() == BPF_MAP_TYPE_LRU_HASH as u32 {
                memory.put_table(at, map.key_size(), map.value_size());
            } else {
                memory.put(at, map.data());
            }
        }
        let mut at = 0;
        while at < code.len() {
            // A 64-bit constant takes two instructions; the source register of the first says what it refers to.
            if code[at].code == 0x18 {
                let (map, offset) = (code[at].imm, code[at + 1].imm);
                let base = DATA + u64::from(map.unsigned_abs()) * EACH;
                let address = match u32::from(code[at].src_reg()) {
                    BPF_PSEUDO_MAP_VALUE => base + u64::from(offset.unsigned_abs()),
                    // The map itself, which only helpers use.
                    BPF_PSEUDO_MAP_FD => base,
                    _ => u64::from(map.cast_unsigned()) | u64::from(offset.cast_unsigned()) << 32,
                };
                [code[at].imm, code[at + 1].imm] =
                    [address, address >> 32].map(|half| ((half & 0xffff_ffff) as u32).cast_signed());
                at += 1;
            }
            at += 1;
        }
        (code, memory)
    }
}
