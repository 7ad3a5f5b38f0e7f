//! The hooks of each family as a table, and how one is loaded and attached. Links are dropped by the kernel with the
//! process. It knows nothing of what the programs see.

use std::fs::File;

use aya::{
    Btf, Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, CgroupSockopt, FEntry, KProbe,
        Program, ProgramError, RawTracePoint, SockOps,
    },
};

/// A program and the place where it runs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program's name in the kernel object.
    pub program: &'static str,
    /// Where it runs.
    pub point: Point,
}

/// A place in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A trampoline at the entry of a function.
    Fentry(&'static str),
    /// A breakpoint at the entry of a function.
    Kprobe(&'static str),
    /// A tracepoint, with the arguments that the kernel itself gives to it.
    RawTracepoint(&'static str),
    /// A cgroup's hook of this name.
    Cgroup(&'static str),
}

impl Point {
    /// Its name, as the kernel's documentation has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry(name) | Self::Kprobe(name) | Self::RawTracepoint(name) | Self::Cgroup(name) => name,
        }
    }
}

const fn hook(program: &'static str, point: Point) -> Hook {
    Hook { program, point }
}

/// In the order in which they are attached: the one that reads bytes comes last, so that nothing it sees has a
/// beginning that the others were too late for.
pub(super) const FENTRY: &[Hook] = &[
    hook("egress_sock_states", Point::RawTracepoint("inet_sock_set_state")),
    hook("egress_fentry_syn_received", Point::Fentry("inet_csk_reqsk_queue_hash_add")),
    hook("egress_fentry_accept", Point::Fentry("security_sock_graft")),
    hook("egress_fentry_options", Point::Fentry("security_socket_setsockopt")),
    hook("egress_fentry_connect", Point::Fentry("tcp_connect")),
    hook("egress_fentry_send", Point::Fentry("tcp_sendmsg")),
];

/// As [`FENTRY`].
pub(super) const KPROBE: &[Hook] = &[
    hook("egress_sock_states", Point::RawTracepoint("inet_sock_set_state")),
    hook("egress_kprobe_syn_received", Point::Kprobe("inet_csk_reqsk_queue_hash_add")),
    hook("egress_kprobe_accept", Point::Kprobe("security_sock_graft")),
    hook("egress_kprobe_options", Point::Kprobe("security_socket_setsockopt")),
    hook("egress_kprobe_connect", Point::Kprobe("tcp_connect")),
    hook("egress_kprobe_send", Point::Kprobe("tcp_sendmsg")),
];

/// As [`FENTRY`].
pub(super) const CGROUP: &[Hook] = &[
    hook("egress_states", Point::Cgroup("sock_ops")),
    hook("egress_accept4", Point::Cgroup("getpeername4")),
    hook("egress_accept6", Point::Cgroup("getpeername6")),
    hook("egress_options", Point::Cgroup("setsockopt")),
    hook("egress_connect4", Point::Cgroup("connect4")),
    hook("egress_connect6", Point::Cgroup("connect6")),
    hook("egress_bytes", Point::Cgroup("skb egress")),
];

/// Links are always shared with other owners' programs, and then the kernel wants no flag:
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/cgroup.c#L1439>.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

impl Hook {
    /// Has the program verified. `btf` is the kernel's, which only fentry needs.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel object has no programs of other types")]
    pub(super) fn load(self, ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<(), ProgramError> {
        match self.program(ebpf)? {
            Program::FEntry(program) => program.load(self.point.name(), btf.ok_or(ProgramError::NotLoaded)?),
            Program::KProbe(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// Attaches the loaded program. `cgroup` is where cgroup hooks go.
    pub(super) fn attach(self, ebpf: &mut Ebpf, cgroup: &File) -> Result<(), ProgramError> {
        let program = self.program(ebpf)?;
        let name = self.point.name();
        match self.point {
            Point::Fentry(_) => <&mut FEntry>::try_from(program)?.attach().map(drop),
            Point::Kprobe(_) => <&mut KProbe>::try_from(program)?.attach(name, 0).map(drop),
            Point::RawTracepoint(_) => <&mut RawTracePoint>::try_from(program)?.attach(name).map(drop),
            Point::Cgroup("sock_ops") => <&mut SockOps>::try_from(program)?.attach(cgroup, MODE).map(drop),
            Point::Cgroup("setsockopt") => {
                <&mut CgroupSockopt>::try_from(program)?.attach(cgroup, MODE).map(drop)
            }
            Point::Cgroup("skb egress") => <&mut CgroupSkb>::try_from(program)?
                .attach(cgroup, CgroupSkbAttachType::Egress, MODE)
                .map(drop),
            Point::Cgroup(_) => <&mut CgroupSockAddr>::try_from(program)?.attach(cgroup, MODE).map(drop),
        }
    }

    /// How many instructions the verifier had to look at; `None` where the kernel does not say (before 5.16).
    pub(super) fn verified_instructions(self, ebpf: &mut Ebpf) -> Option<u32> {
        self.program(ebpf).ok()?.info().ok()?.verified_instruction_count()
    }

    fn program(self, ebpf: &mut Ebpf) -> Result<&mut Program, ProgramError> {
        ebpf.program_mut(self.program).ok_or(ProgramError::NotLoaded)
    }
}

/// What the kernel said, in one line: the verifier's log is hundreds of them, of which the last ones hold the reason.
pub(super) fn explain(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        log::debug!("the verifier's log:\n{verifier_log}");
        let log = verifier_log.to_string();
        let reason = log.lines().rev().find(|line| !is_summary(line));
        return format!("{io_error}{}", reason.map(|line| format!(" ({line})")).unwrap_or_default());
    }
    chain(error)
}

/// What the verifier says of itself at the end, and not of the program.
fn is_summary(line: &str) -> bool {
    let line = line.trim();
    line.is_empty()
        || ["processed ", "verification time", "stack depth"].iter().any(|begin| line.starts_with(begin))
}

fn chain(error: &dyn std::error::Error) -> String {
    let Some(source) = error.source() else { return error.to_string() };
    let (outer, inner) = (error.to_string(), chain(source));
    // Some errors print their source themselves.
    if outer.contains(&inner) { outer } else { format!("{outer}: {inner}") }
}
