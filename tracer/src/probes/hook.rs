//! One hook: how its program is loaded and attached. The kernel drops the links with the process.

use std::fs::File;

use aya::{
    Btf, Ebpf,
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError},
};

/// A program and the place in the kernel where it runs. The program's type decides how it is attached.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program's name in the kernel object.
    pub program: &'static str,
    /// The place, as the kernel's documentation calls it: a function, a raw tracepoint or a cgroup hook.
    pub point: &'static str,
}

/// Other programs may be attached to the same cgroup. A link needs no flag for that:
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/cgroup.c#L1439>.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

impl Hook {
    pub(super) const fn new(program: &'static str, point: &'static str) -> Self {
        Self { program, point }
    }

    /// Has the kernel verify the program. `btf` describes the running kernel; only fentry programs need it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel object has no programs of other types")]
    pub(super) fn load(self, ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<(), ProgramError> {
        match self.program(ebpf)? {
            Program::FEntry(program) => program.load(self.point, btf.ok_or(ProgramError::NotLoaded)?),
            Program::KProbe(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// Attaches the loaded program. Programs of cgroup hooks are attached to `cgroup`, the others to the whole kernel.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel object has no programs of other types")]
    pub(super) fn attach(self, ebpf: &mut Ebpf, cgroup: &File) -> Result<(), ProgramError> {
        match self.program(ebpf)? {
            Program::FEntry(program) => program.attach().map(drop),
            Program::KProbe(program) => program.attach(self.point, 0).map(drop),
            Program::RawTracePoint(program) => program.attach(self.point).map(drop),
            Program::SockOps(program) => program.attach(cgroup, MODE).map(drop),
            Program::CgroupSkb(program) => {
                program.attach(cgroup, CgroupSkbAttachType::Egress, MODE).map(drop)
            }
            Program::CgroupSockAddr(program) => program.attach(cgroup, MODE).map(drop),
            Program::CgroupSockopt(program) => program.attach(cgroup, MODE).map(drop),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// The number of instructions that the verifier processed; `None` before Linux 5.16, which does not report it.
    pub(super) fn verified_instructions(self, ebpf: &mut Ebpf) -> Option<u32> {
        self.program(ebpf).ok()?.info().ok()?.verified_instruction_count()
    }

    fn program(self, ebpf: &mut Ebpf) -> Result<&mut Program, ProgramError> {
        ebpf.program_mut(self.program).ok_or(ProgramError::NotLoaded)
    }
}

/// The kernel's reason in one line. Of the verifier's log, which has hundreds of lines, that is the last one that is no
/// summary.
pub(super) fn explain(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        log::debug!("the verifier's log:\n{verifier_log}");
        let log = verifier_log.to_string();
        let reason = log.lines().rev().find(|line| !is_summary(line));
        return format!("{io_error}{}", reason.map(|line| format!(" ({line})")).unwrap_or_default());
    }
    chain(error)
}

/// Is this a line in which the verifier reports its own effort?
fn is_summary(line: &str) -> bool {
    let line = line.trim();
    line.is_empty()
        || ["processed ", "verification time", "stack depth"].iter().any(|begin| line.starts_with(begin))
}

fn chain(error: &dyn std::error::Error) -> String {
    let Some(source) = error.source() else { return error.to_string() };
    let (outer, inner) = (error.to_string(), chain(source));
    // Some errors already print their source.
    if outer.contains(&inner) { outer } else { format!("{outer}: {inner}") }
}
