//! An interpreter of BPF instructions, for tests of which helpers a program calls. It does none of the verifier's checks, and
//! ends with an error at an instruction that it does not know. `rbpf` does not fit: it has no atomic additions, and does not
//! pass a helper its number.
//! <https://www.rfc-editor.org/rfc/rfc9669>

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]
// An instruction set is about the width of numbers.

use aya_obj::generated::bpf_insn;

use super::memory::Memory;

/// The stacks. As in the kernel, a frame has 512 bytes, and calls are at most 8 deep.
pub const STACK: u64 = 0x7fff_0000_0000;
pub const STACK_BYTES: usize = DEPTH * FRAME as usize;
const FRAME: u64 = 512;
const DEPTH: usize = 8;
/// More instructions than the longest path of any program.
const STEPS: usize = 1_000_000;

/// Runs a program on a context at this address, and returns its result. `helper` stands in for the kernel's helpers; it gets
/// the number and the arguments of each call.
pub fn run(
    code: &[bpf_insn],
    context: u64,
    memory: &mut Memory,
    mut helper: impl FnMut(&mut Memory, i32, [u64; 5]) -> Result<u64, String>,
) -> Result<u64, String> {
    memory.put(STACK, vec![0; STACK_BYTES]);
    let mut registers = [0_u64; 11];
    (registers[1], registers[10]) = (context, STACK + DEPTH as u64 * FRAME);
    let mut callers: Vec<(usize, [u64; 5])> = Vec::new();
    let mut at = 0_usize;
    for _ in 0..STEPS {
        let insn = code.get(at).ok_or("it runs beyond its end")?;
        at += 1;
        let (to, from) = (usize::from(insn.dst_reg()), usize::from(insn.src_reg()));
        let immediate = i64::from(insn.imm) as u64;
        let (class, operation) = (insn.code & 7, insn.code & 0xf0);
        let operand = if insn.code & 8 == 0 { immediate } else { registers[from] };
        let width = [4, 2, 1, 8][usize::from(insn.code >> 3 & 3)];
        let offset = i64::from(insn.off) as u64;
        match (class, insn.code & 0xe0) {
            // A 64-bit constant. `Image` has replaced the references to maps and their data by addresses.
            (0, 0) if insn.code == 0x18 => {
                let high = code.get(at).ok_or("half of a number")?.imm;
                registers[to] = u64::from(insn.imm as u32) | u64::from(high as u32) << 32;
                at += 1;
            }
            (1, 0x60) => registers[to] = memory.load(registers[from].wrapping_add(offset), width)?,
            (2, 0x60) => memory.store(registers[to].wrapping_add(offset), width, immediate)?,
            (3, 0x60) => memory.store(registers[to].wrapping_add(offset), width, registers[from])?,
            // Atomic additions without a result.
            (3, 0xc0) if insn.imm == 0 => {
                let place = registers[to].wrapping_add(offset);
                let sum = memory.load(place, width)?.wrapping_add(registers[from]);
                memory.store(place, width, sum)?;
            }
            (4 | 7, _) if insn.off == 0 => {
                let wide = class == 7;
                let result = if operation == 0xd0 {
                    swapped(registers[to], insn.imm, insn.code)
                } else if wide {
                    arithmetic(operation, registers[to], operand, 63)
                } else {
                    let (a, b) = (registers[to] as u32, operand as u32);
                    // An arithmetic shift needs the sign bit of the 32-bit value.
                    let a = if operation == 0xc0 { i64::from(a as i32) as u64 } else { a.into() };
                    arithmetic(operation, a, b.into(), 31).map(|result| u64::from(result as u32))
                };
                registers[to] = result.ok_or_else(|| unknown(*insn))?;
            }
            (5, _) if operation == 0x80 && from == 1 => {
                if callers.len() + 1 == DEPTH {
                    return Err("calls too deep".to_owned());
                }
                callers.push((at, [6, 7, 8, 9, 10].map(|register| registers[register])));
                registers[10] -= FRAME;
                at = at.wrapping_add_signed(insn.imm as isize);
            }
            (5, _) if operation == 0x80 && from == 0 => {
                let arguments = [1, 2, 3, 4, 5].map(|register| registers[register]);
                registers[0] = helper(memory, insn.imm, arguments)?;
                // A call clobbers the argument registers.
                registers[1..6].fill(0xdead_beef_dead_beef);
            }
            (5, _) if operation == 0x90 => match callers.pop() {
                Some((back, kept)) => {
                    at = back;
                    registers[6..].copy_from_slice(&kept);
                }
                None => return Ok(registers[0]),
            },
            (5 | 6, _) => {
                let far = class == 6 && operation == 0;
                let wide = class == 5;
                let (a, b) = (registers[to], operand);
                let (a, b, sa, sb) = if wide {
                    (a, b, a as i64, b as i64)
                } else {
                    (a & 0xffff_ffff, b & 0xffff_ffff, i64::from(a as i32), i64::from(b as i32))
                };
                if holds(operation, (a, b), (sa, sb)).ok_or_else(|| unknown(*insn))? {
                    at = at.wrapping_add_signed(if far { insn.imm as isize } else { insn.off.into() });
                }
            }
            _ => return Err(unknown(*insn)),
        }
    }
    Err("it does not end".to_owned())
}

fn unknown(insn: bpf_insn) -> String {
    format!("an instruction {:#x} with offset {} and number {}", insn.code, insn.off, insn.imm)
}

/// `shift` is the mask of a shift's width.
fn arithmetic(operation: u8, a: u64, b: u64, shift: u64) -> Option<u64> {
    Some(match operation {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b).unwrap_or(0),
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a << (b & shift),
        0x70 => a >> (b & shift),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(b).unwrap_or(a),
        0xa0 => a ^ b,
        0xb0 => b,
        0xc0 => (a as i64 >> (b & shift)) as u64,
        _ => return None,
    })
}

/// Swaps the bytes of a number as on a little-endian machine.
fn swapped(value: u64, bits: i32, code: u8) -> Option<u64> {
    let swap = code == 0xdc || code == 0xd7;
    Some(match (bits, swap) {
        (16, false) => value & 0xffff,
        (32, false) => value & 0xffff_ffff,
        (64, false) => value,
        (16, true) => (value as u16).swap_bytes().into(),
        (32, true) => (value as u32).swap_bytes().into(),
        (64, true) => value.swap_bytes(),
        _ => return None,
    })
}

fn holds(operation: u8, (a, b): (u64, u64), (sa, sb): (i64, i64)) -> Option<bool> {
    Some(match operation {
        0x00 => true,
        0x10 => a == b,
        0x20 => a > b,
        0x30 => a >= b,
        0x40 => a & b != 0,
        0x50 => a != b,
        0x60 => sa > sb,
        0x70 => sa >= sb,
        0xa0 => a < b,
        0xb0 => a <= b,
        0xc0 => sa < sb,
        0xd0 => sa <= sb,
        _ => return None,
    })
}
