//! Attaches the cgroup family: links on one cgroup v2 directory, which the kernel drops with the process.

use std::{fs::File, path::Path};

use anyhow::Context as _;
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, ProgramError, SockOps},
};

/// In the order in which they are attached: the one that reads bytes comes last, so that nothing it sees has a
/// beginning that the others were too late for.
pub(super) const PROGRAMS: [&str; 6] = [
    "egress_states",
    "egress_accept4",
    "egress_accept6",
    "egress_connect4",
    "egress_connect6",
    "egress_bytes",
];

/// Links are always shared with other owners' programs, and then the kernel wants no flag:
/// <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/cgroup.c#L1439>.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

pub(super) fn attach(ebpf: &mut Ebpf, cgroup: &Path) -> anyhow::Result<()> {
    let dir = File::open(cgroup).with_context(|| {
        format!("cannot open the cgroup {}; is it a cgroup v2 directory?", cgroup.display())
    })?;
    for name in PROGRAMS {
        let refused = || {
            format!(
                "the kernel refused the hook {name} on the cgroup {}; \
                 `egress-tracer check` shows what this kernel offers",
                cgroup.display()
            )
        };
        attach_one(ebpf, name, &dir).map_err(|error| explain(&error)).with_context(refused)?;
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, name: &str, cgroup: &File) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    match name {
        "egress_states" => {
            let program: &mut SockOps = program.try_into()?;
            program.load()?;
            program.attach(cgroup, MODE)?;
        }
        "egress_bytes" => {
            let program: &mut CgroupSkb = program.try_into()?;
            program.load()?;
            program.attach(cgroup, CgroupSkbAttachType::Egress, MODE)?;
        }
        _ => {
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load()?;
            program.attach(cgroup, MODE)?;
        }
    }
    Ok(())
}

/// The verifier's log is hundreds of lines: the last ones hold the reason.
fn explain(error: &ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        log::debug!("the verifier's log:\n{verifier_log}");
        let log = verifier_log.to_string();
        let reason =
            log.lines().rev().find(|line| !line.starts_with("processed ") && !line.trim().is_empty());
        return anyhow::anyhow!("{io_error}{}", reason.map(|line| format!(" ({line})")).unwrap_or_default());
    }
    anyhow::anyhow!("{}", source_chain(error))
}

fn source_chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", source_chain(source)),
        None => error.to_string(),
    }
}
