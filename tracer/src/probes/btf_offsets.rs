//! Offsets of the kernel's fields that the fentry and kprobe families read: the list of fields, and the search for them in the
//! kernel's BTF. A field that is missing or ambiguous is an error that names it.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, bail};
use btf_rs::{Btf, BtfType, Member, Type};
use tracer_ebpf::{BtfOffsets, btf_offsets::ABSENT};

/// The BTF of the running kernel.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A field of a kernel structure, and where its offset goes.
struct Field {
    structure: &'static str,
    /// Its path; several where kernels call it differently.
    paths: &'static [&'static str],
    /// The programs can do without it.
    optional: bool,
    set: fn(&mut BtfOffsets, u32),
}

const fn field(
    structure: &'static str,
    paths: &'static [&'static str],
    set: fn(&mut BtfOffsets, u32),
) -> Field {
    Field { structure, paths, optional: false, set }
}

/// Every field that is read. A `struct tcp_sock` begins with a `struct sock`, which begins with a `struct sock_common`.
const FIELDS: &[Field] = &[
    field("sock_common", &["skc_daddr"], |l, at| l.daddr = at),
    field("sock_common", &["skc_rcv_saddr"], |l, at| l.saddr = at),
    field("sock_common", &["skc_dport"], |l, at| l.dport = at),
    field("sock_common", &["skc_num"], |l, at| l.num = at),
    field("sock_common", &["skc_family"], |l, at| l.family = at),
    field("sock_common", &["skc_state"], |l, at| l.state = at),
    field("sock_common", &["skc_net.net"], |l, at| l.net = at),
    field("sock_common", &["skc_v6_daddr"], |l, at| l.v6_daddr = at),
    field("sock_common", &["skc_v6_rcv_saddr"], |l, at| l.v6_saddr = at),
    field("sock", &["sk_protocol"], |l, at| l.protocol = at),
    field("sock", &["sk_uid.val"], |l, at| l.uid = at),
    field("sock", &["sk_err"], |l, at| l.err = at),
    // 5.15 replaced the tagged number by a pointer:
    // https://git.kernel.org/torvalds/c/8520e224f547cd070c7c8f97b1fc6d58cff7ccaa
    field("sock", &["sk_cgrp_data.cgroup", "sk_cgrp_data.val"], |l, at| l.cgroup = at),
    field("socket", &["sk"], |l, at| l.socket_sk = at),
    field("cgroup", &["level"], |l, at| l.cgroup_level = at),
    field("cgroup", &["kn"], |l, at| l.kn = at),
    field("kernfs_node", &["id"], |l, at| l.kn_id = at),
    field("net", &["ns.inum"], |l, at| l.inum = at),
    field("tcp_sock", &["write_seq"], |l, at| l.write_seq = at),
    field("tcp_sock", &["bytes_acked"], |l, at| l.bytes_acked = at),
    field("tcp_sock", &["bytes_received"], |l, at| l.bytes_received = at),
    field("tcp_sock", &["data_segs_out"], |l, at| l.data_segs_out = at),
    field("tcp_sock", &["fastopen_req"], |l, at| l.fastopen = at),
    field("msghdr", &["msg_flags"], |l, at| l.msg_flags = at),
    field("msghdr", &["msg_iter.iov_offset"], |l, at| l.iov_offset = at),
    field("msghdr", &["msg_iter.__iov", "msg_iter.iov"], |l, at| l.iov = at),
    field("msghdr", &["msg_iter.nr_segs"], |l, at| l.nr_segs = at),
    // 6.0: https://git.kernel.org/torvalds/c/fcb14cb1bdacec5b4374fe161e83fb8208164a85
    Field { structure: "msghdr", paths: &["msg_iter.ubuf"], optional: true, set: |l, at| l.ubuf = at },
];

/// The offsets in the running kernel.
pub fn of_this_kernel() -> anyhow::Result<BtfOffsets> {
    if !Path::new(KERNEL_BTF).exists() {
        bail!(
            "this kernel has no BTF ({KERNEL_BTF}): it needs to be built with CONFIG_DEBUG_INFO_BTF, or use \
             --family cgroup, which needs none"
        );
    }
    let bytes = std::fs::read(KERNEL_BTF).with_context(|| format!("cannot read {KERNEL_BTF}"))?;
    in_btf(&bytes).with_context(|| format!("cannot use {KERNEL_BTF}"))
}

/// The offsets in a BTF section.
pub fn in_btf(bytes: &[u8]) -> anyhow::Result<BtfOffsets> {
    let btf = Btf::from_bytes(bytes).context("it is not BTF")?;
    let mut layout = BtfOffsets::UNKNOWN;
    for field in FIELDS {
        match find(&btf, field.structure, field.paths)? {
            Some((at, _)) => (field.set)(&mut layout, at),
            None if field.optional => {}
            None => bail!("{}", missing(field.structure, field.paths)),
        }
    }
    // 6.1 keeps pointers where there were ids: https://git.kernel.org/torvalds/c/7f203bc89eb66d6afde7eae91347fc0352090cc3
    let ancestors = &["ancestors", "ancestor_ids"];
    let Some((at, which)) = find(&btf, "cgroup", ancestors)? else {
        bail!("{}", missing("cgroup", ancestors))
    };
    (layout.ancestors, layout.ancestors_are_ids) = (at, u32::from(which == "ancestor_ids"));
    // 5.14 took the direction out of the type: https://git.kernel.org/torvalds/c/8cd54c1c848031a87820e58d772166ffdf8c08c0
    let sorts = &["msg_iter.iter_type", "msg_iter.type"];
    let Some((at, which)) = find(&btf, "msghdr", sorts)? else { bail!("{}", missing("msghdr", sorts)) };
    (layout.iter_type, layout.iter_mask) = (at, if which == "msg_iter.type" { 0xfe } else { 0xff });
    let Some(iovec) = enumerator(&btf, "iter_type", "ITER_IOVEC")? else {
        bail!("this kernel's `enum iter_type` has no `ITER_IOVEC`");
    };
    layout.iter_iovec = iovec;
    layout.iter_ubuf = enumerator(&btf, "iter_type", "ITER_UBUF")?.unwrap_or(ABSENT);
    Ok(layout)
}

fn missing(structure: &str, paths: &[&str]) -> String {
    format!("this kernel's `struct {structure}` has no field `{}`", paths.join("` or `"))
}

/// The offset in bytes of the first of `paths` that exists, and that path.
fn find<'a>(btf: &Btf, structure: &str, paths: &[&'a str]) -> anyhow::Result<Option<(u32, &'a str)>> {
    let types = btf.resolve_types_by_name(structure).unwrap_or_default();
    let structures: Vec<_> = types
        .into_iter()
        .filter_map(|found| if let Type::Struct(found) = found { Some(found.members) } else { None })
        .collect();
    if structures.is_empty() {
        bail!("this kernel has no `struct {structure}`");
    }
    for path in paths {
        // BTF may describe a structure more than once; all descriptions have to agree.
        let mut bits = BTreeSet::new();
        for members in &structures {
            search(btf, members, path, 0, &mut bits)?;
        }
        match bits.iter().collect::<Vec<_>>()[..] {
            [] => {}
            [&at] if at % 8 == 0 => return Ok(Some((at / 8, path))),
            [_] => bail!("this kernel's `struct {structure}` has `{path}` as a bit field"),
            _ => bail!("this kernel's `struct {structure}` has {} fields `{path}`", bits.len()),
        }
    }
    Ok(None)
}

/// Collects the offsets, in bits, of every member that `path` may mean. As in C, the members of unnamed structures and unions
/// count as members of the outer structure.
fn search(
    btf: &Btf,
    members: &[Member],
    path: &str,
    base: u32,
    found: &mut BTreeSet<u32>,
) -> anyhow::Result<()> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    for member in members {
        let name = btf.resolve_name(member).unwrap_or_default();
        let at = base + member.bit_offset();
        if name.is_empty() {
            if let Some(inner) = members_of(btf, member)? {
                search(btf, &inner, path, at, found)?;
            }
        } else if name == first {
            match rest {
                None => {
                    found.insert(at);
                }
                Some(rest) => {
                    if let Some(inner) = members_of(btf, member)? {
                        search(btf, &inner, rest, at, found)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The members of a member whose type is a structure or a union, through typedefs and qualifiers.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other types have no members")]
fn members_of(btf: &Btf, member: &dyn BtfType) -> anyhow::Result<Option<Vec<Member>>> {
    let mut inner = btf.resolve_chained_type(member)?;
    loop {
        inner = match inner {
            Type::Struct(found) | Type::Union(found) => return Ok(Some(found.members)),
            Type::Typedef(other) => btf.resolve_chained_type(&other)?,
            Type::Const(other) | Type::Volatile(other) => btf.resolve_chained_type(&other)?,
            _ => return Ok(None),
        }
    }
}

fn enumerator(btf: &Btf, name: &str, wanted: &str) -> anyhow::Result<Option<u32>> {
    let mut values = BTreeSet::new();
    for found in btf.resolve_types_by_name(name).unwrap_or_default() {
        if let Type::Enum(found) = found {
            let named = found.members.iter().filter(|m| btf.resolve_name(*m).is_ok_and(|n| n == wanted));
            values.extend(named.map(btf_rs::EnumMember::val));
        }
    }
    match values.iter().collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [&value] => Ok(Some(value)),
        _ => bail!("this kernel's `enum {name}` has {} values for `{wanted}`", values.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The running kernel's BTF with one name replaced by another of equal length.
    fn doctored(from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let mut bytes = std::fs::read(KERNEL_BTF).expect("this test needs a kernel with BTF");
        let (from, to) = (format!("\0{from}\0"), format!("\0{to}\0"));
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the name is there");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    #[test]
    fn running_kernel_has_every_field() {
        let layout = of_this_kernel().expect("a layout");
        // The first members of `sock_common`, at the same offsets in every kernel so far.
        assert_eq!((layout.daddr, layout.saddr, layout.dport, layout.num), (0, 4, 12, 14));
        assert!(layout.write_seq < 4096 && layout.iov != ABSENT);
    }

    #[test]
    fn missing_field_is_named_in_the_error() {
        let error = in_btf(&doctored("bytes_acked", "bytes_xcked")).expect_err("missing").to_string();
        assert_eq!(error, "this kernel's `struct tcp_sock` has no field `bytes_acked`");
    }

    #[test]
    fn missing_field_is_named_by_all_of_its_names() {
        let bytes = doctored("ancestors", "ancestorz");
        let error = in_btf(&bytes).expect_err("missing").to_string();
        assert_eq!(error, "this kernel's `struct cgroup` has no field `ancestors` or `ancestor_ids`");
    }

    #[test]
    fn ambiguous_field_is_named_in_the_error() {
        let error = in_btf(&doctored("skc_dport", "skc_daddr")).expect_err("ambiguous").to_string();
        assert_eq!(error, "this kernel's `struct sock_common` has 2 fields `skc_daddr`");
    }

    #[test]
    fn bytes_that_are_no_btf_are_refused() {
        assert_eq!(in_btf(b"no").expect_err("refused").to_string(), "it is not BTF");
    }
}
