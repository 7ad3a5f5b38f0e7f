//! Filters on reports: the command line's, which travel to an agent as query parameters in the same words.
//!
//! The table in this file is the only list of filters: fields, matching, query parameters and error texts follow from
//! it. To add a filter, add a row, and a value type to the module `values` if it needs one.

mod condition;
mod mismatch;
mod similar;
mod values;

use std::str::FromStr;

use self::{
    condition::{Condition, Criterion},
    values::{Authority, Namespace, PodName, Status, To, Workload},
};
use crate::{report::Report, selector, selector::Selector, verdict::Verdict};
pub use similar::most_similar;

/// Why a filter was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No filter has this name.
    #[error("there is no filter `{0}`; there are {all}", all = Filter::NAMES.join(", "))]
    UnknownName(String),
    /// The filter's value is malformed.
    #[error("{name}: {problem}")]
    Value {
        /// The filter.
        name: &'static str,
        /// What is wrong with the value.
        problem: ValueError,
    },
}

/// What is wrong with a filter's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// Not a verdict.
    #[error("there is no verdict `{0}`; {instead}", instead = verdicts_instead_of(.0))]
    Verdict(String),
    /// Not a pod.
    #[error("want POD or NAMESPACE/POD")]
    Pod,
    /// Not a workload.
    #[error("want WORKLOAD or NAMESPACE/WORKLOAD")]
    Workload,
    /// Not an address.
    #[error(
        "want an address as the app dials it (10.0.0.1, 10.0.0.1:3128, [fd00::1]:3128), a network (10.0.0.0/8) or a port \
         (:3128); names are not looked up"
    )]
    Address,
    /// Not a status.
    #[error("want a status such as 404, or a hundred of them such as 4+")]
    Status,
    /// Not a flag.
    #[error("want true or false, and not `{0}`")]
    Flag(String),
    /// Not a selector.
    #[error(transparent)]
    Selector(#[from] selector::SelectorError),
}

/// `did you mean ...?`, and all verdicts.
fn verdicts_instead_of(name: &str) -> String {
    let names: Vec<&str> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    let guess = most_similar(name, names.iter().copied());
    let guess = guess.map(|guess| format!("did you mean `{guess}`? ")).unwrap_or_default();
    format!("{guess}there are {}", names.join(", "))
}

macro_rules! filters {
    (
        values { $($(#[$attribute:meta])* $field:ident: $type:ty,)+ }
        flags { $($(#[$flag_attribute:meta])* $flag:ident,)+ }
    ) => {
        /// Which reports are wanted. Several values of one filter are alternatives; different filters must all hold; `!`
        /// in front of a value leaves out what it matches.
        #[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
        #[group(skip)]
        #[command(
            next_help_heading = "Filters; commas separate alternatives, ! in front of a value leaves it out"
        )]
        pub struct Filter {
            $($(#[$attribute])* $field: Vec<$type>,)+
            $($(#[$flag_attribute])* $flag: bool,)+
        }

        impl Filter {
            /// The names of all filters, as [`Self::add`] takes them.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field),)+ $(stringify!($flag),)+];

            /// Whether this report is wanted.
            pub fn matches(&self, report: &Report) -> bool {
                let Self { $($field,)+ $($flag,)+ } = self;
                $(<$type>::hold($field, report) &&)+ $((!$flag || report.$flag))&&+
            }

            /// Why none of these reports passes, in a sentence with what there is. `None`: one does, or there is no report.
            pub fn nothing_because(&self, reports: &[Box<Report>]) -> Option<String> {
                if reports.is_empty() || reports.iter().any(|report| self.matches(report)) {
                    return None;
                }
                $(if !reports.iter().any(|report| <$type>::hold(&self.$field, report)) {
                    let wanted: Vec<String> = self.$field.iter().map(ToString::to_string).collect();
                    let there = reports.iter().filter_map(|report| <$type>::value_of(report));
                    return Some(mismatch::sentence(stringify!($field), &wanted, reports.len(), there));
                })+
                $(if self.$flag && !reports.iter().any(|report| report.$flag) {
                    return Some(format!("none of the {} sessions is {}", reports.len(), stringify!($flag)));
                })+
                Some(format!(
                    "each filter alone passes some of the {} sessions, and all together pass none",
                    reports.len()
                ))
            }

            /// The filters as names and values, for a query. [`Self::add`] reads them.
            pub fn pairs(&self) -> Vec<(&'static str, String)> {
                let mut pairs = Vec::new();
                $(pairs.extend(self.$field.iter().map(|value| (stringify!($field), value.to_string())));)+
                $(pairs.extend(self.$flag.then(|| (stringify!($flag), "true".to_owned())));)+
                pairs
            }

            /// Adds a value of the filter with this name.
            ///
            /// # Errors
            /// No filter has this name, or the value is malformed.
            pub fn add(&mut self, name: &str, value: &str) -> Result<(), FilterError> {
                match name {
                    $(stringify!($field) => {
                        for part in <$type>::split(value) {
                            self.$field.push(parse(stringify!($field), part)?);
                        }
                    })+
                    $(stringify!($flag) => {
                        self.$flag = parse_flag(value)
                            .map_err(|problem| FilterError::Value { name: stringify!($flag), problem })?;
                    })+
                    _ => return Err(FilterError::UnknownName(name.to_owned())),
                }
                Ok(())
            }
        }
    };
}

filters! {
    values {
        /// Only sessions of this namespace
        #[arg(short, long, value_name = "NAMESPACE", value_delimiter = ',')]
        namespace: Condition<Namespace>,
        /// Only sessions of pods whose name begins so
        #[arg(short, long, value_name = "[NAMESPACE/]POD", value_delimiter = ',')]
        pod: Condition<PodName>,
        /// Only sessions of this workload, such as a Deployment
        #[arg(short, long, value_name = "[NAMESPACE/]NAME", value_delimiter = ',')]
        workload: Condition<Workload>,
        /// Only sessions of pods with these labels: app=cart, tier!=db, env in (a,b), !legacy; all that are given must hold
        #[arg(short = 'l', long, value_name = "SELECTOR")]
        selector: Selector,
        /// Only sessions to this proxy, as the app dialed it: an address, a network (10.0.0.0/8) or a port (:3128)
        #[arg(long, value_name = "IP[/BITS][:PORT]", value_delimiter = ',')]
        to: Condition<To>,
        /// Only sessions that ask for this host; `*` stands for anything
        #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
        authority: Condition<Authority>,
        /// Only sessions with this verdict
        #[arg(long, value_name = "VERDICT", value_delimiter = ',')]
        verdict: Condition<Verdict>,
        /// Only sessions that were answered with this status; `4+` is 400 to 499
        #[arg(long, value_name = "STATUS", value_delimiter = ',')]
        http_status: Condition<Status>,
    }
    flags {
        /// Only sessions in which the sidecar's configuration is at fault
        #[arg(long)]
        flagged,
    }
}

impl Filter {
    /// The filters as flags of the command line: `--namespace shop --flagged`.
    pub fn to_flags(&self) -> String {
        let flags = self.pairs().into_iter().map(|(name, value)| {
            let name = name.replace('_', "-");
            if value == "true" { format!("--{name}") } else { format!("--{name} {value}") }
        });
        flags.collect::<Vec<_>>().join(" ")
    }

    /// Whether nothing passes without the names and labels that a container runtime knows.
    pub fn needs_names(&self) -> bool {
        let Self { namespace, pod, workload, selector, .. } = self;
        namespace.iter().any(Condition::is_wanted)
            || pod.iter().any(Condition::is_wanted)
            || workload.iter().any(Condition::is_wanted)
            || !selector.is_empty()
    }
}

fn parse<T: FromStr<Err: Into<ValueError>>>(name: &'static str, value: &str) -> Result<T, FilterError> {
    value.parse::<T>().map_err(|problem| FilterError::Value { name, problem: problem.into() })
}

/// `?flagged`, `?flagged=true`
fn parse_flag(value: &str) -> Result<bool, ValueError> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(ValueError::Flag(value.to_owned())),
    }
}
