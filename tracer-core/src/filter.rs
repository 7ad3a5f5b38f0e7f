//! Which reports somebody wants to see: the filters of the command line, which travel to an agent as query parameters
//! in the very words they were given in. It decides on a report alone, and changes nothing.

mod condition;

use std::fmt;

use condition::{Authority, Condition, PodName, Status, To};

use crate::{
    report::Report,
    selector::{self, Selector},
    verdict::Verdict,
};

/// Which reports are wanted. Several values of one flag are alternatives; different flags must all hold; `!` in front of
/// a value leaves out what it matches.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
#[group(skip)]
#[command(
    next_help_heading = "Filters; repeat one for alternatives, put ! in front of a value to leave it out"
)]
pub struct Filter {
    /// Only sessions of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<Condition<String>>,
    /// Only sessions of pods whose name begins so
    #[arg(short, long, value_name = "[NAMESPACE/]POD")]
    pod: Vec<Condition<PodName>>,
    /// Only sessions of pods with these labels: app=cart, tier!=db, env in (a,b), !legacy; all that are given must hold
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Vec<Selector>,
    /// Only sessions to this proxy, as the app dialled it
    #[arg(long, value_name = "IP[:PORT]")]
    to: Vec<Condition<To>>,
    /// Only sessions that ask for this host; `*` stands for anything
    #[arg(long, value_name = "HOST[:PORT]")]
    authority: Vec<Condition<Authority>>,
    /// Only sessions with this verdict
    #[arg(long, value_name = "VERDICT")]
    verdict: Vec<Condition<Verdict>>,
    /// Only sessions in which the sidecar's configuration is at fault
    #[arg(long)]
    flagged: bool,
    /// Only sessions that were answered with this status; `4+` is 400 to 499
    #[arg(long, value_name = "STATUS")]
    http_status: Vec<Condition<Status>>,
}

impl Filter {
    /// Whether this report is wanted.
    pub fn matches(&self, report: &Report) -> bool {
        let Self { namespace, pod, selector, to, authority, verdict, flagged, http_status } = self;
        let labels = report.source.owner.as_ref().map(|pod| &pod.labels);
        let Report { source, proxy, connect, reply, .. } = report;
        let status = reply.as_ref().and_then(|reply| reply.status);
        (!flagged || report.flagged)
            && Condition::hold(namespace, |name| source.namespace.as_ref() == Some(name))
            && Condition::hold(pod, |pod| pod.matches(source.namespace.as_deref(), source.pod.as_deref()))
            && selector.iter().all(|selector| labels.is_some_and(|labels| selector.selects(labels)))
            && Condition::hold(to, |to| to.matches((*proxy).into()))
            && Condition::hold(authority, |authority| authority.matches(&connect.authority))
            && Condition::hold(verdict, |verdict| *verdict == report.verdict)
            && Condition::hold(http_status, |wanted| status.is_some_and(|status| wanted.matches(status)))
    }

    /// The filter as names and values, for a query; [`Self::add`] reads them.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        fn of<T: fmt::Display>(
            name: &'static str,
            values: &[Condition<T>],
        ) -> impl Iterator<Item = (&'static str, String)> {
            values.iter().map(move |value| (name, value.to_string()))
        }
        let Self { namespace, pod, selector, to, authority, verdict, flagged, http_status } = self;
        of("namespace", namespace)
            .chain(of("pod", pod))
            .chain(selector.iter().map(|selector| ("selector", selector.to_string())))
            .chain(of("to", to))
            .chain(of("authority", authority))
            .chain(of("verdict", verdict))
            .chain(flagged.then(|| ("flagged", "true".to_owned())))
            .chain(of("http_status", http_status))
            .collect()
    }

    /// Adds one value of the filter with this name.
    ///
    /// # Errors
    /// One clear sentence, or none: there is no filter of this name.
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), Option<String>> {
        fn push<T>(to: &mut Vec<Condition<T>>, value: &str) -> Result<(), String>
        where
            Condition<T>: std::str::FromStr<Err = String>,
        {
            to.push(value.parse()?);
            Ok(())
        }
        match name {
            "namespace" => push(&mut self.namespace, value),
            "pod" => push(&mut self.pod, value),
            "selector" => value
                .parse()
                .map(|value| self.selector.push(value))
                .map_err(|error: selector::Error| error.to_string()),
            "to" => push(&mut self.to, value),
            "authority" => push(&mut self.authority, value),
            "verdict" => push(&mut self.verdict, value),
            "http_status" => push(&mut self.http_status, value),
            "flagged" => {
                self.flagged = true;
                Ok(())
            }
            _ => return Err(None),
        }
        .map_err(|error| Some(format!("{name}: {error}")))
    }
}
