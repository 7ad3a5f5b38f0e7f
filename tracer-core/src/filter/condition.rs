//! One value of a filter, which may be negated, and how several combine.

use std::{fmt, str::FromStr};

use super::ValueError;
use crate::{report::Report, selector::Selector};

/// How the values of one filter combine.
pub(super) trait Criterion: Sized {
    /// Whether a report meets all these values together. No values: it does.
    fn hold(values: &[Self], report: &Report) -> bool;
}

/// A value that a report can be compared with.
pub(super) trait Matches {
    fn matches(&self, report: &Report) -> bool;
}

/// A value, or with `!` in front of it, everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition<T> {
    value: T,
    negated: bool,
}

impl<T: Matches> Criterion for Condition<T> {
    /// No negated value matches, and one of the others does, if there are any.
    fn hold(values: &[Self], report: &Report) -> bool {
        let (mut has_wanted, mut is_wanted) = (false, false);
        for Self { value, negated } in values {
            match (negated, value.matches(report)) {
                (true, true) => return false,
                (true, false) => {}
                (false, matched) => {
                    has_wanted = true;
                    is_wanted |= matched;
                }
            }
        }
        is_wanted || !has_wanted
    }
}

impl Criterion for Selector {
    /// Every selector selects the pod's labels.
    fn hold(selectors: &[Self], report: &Report) -> bool {
        let labels = report.source.owner.as_ref().map(|pod| &pod.labels);
        selectors.iter().all(|selector| labels.is_some_and(|labels| selector.selects(labels)))
    }
}

impl<T: fmt::Display> fmt::Display for Condition<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.negated { "!" } else { "" }, self.value)
    }
}

impl<T: FromStr<Err: Into<ValueError>>> FromStr for Condition<T> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (negated, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if text.is_empty() {
            return Err(ValueError::Empty);
        }
        Ok(Self { value: text.parse().map_err(Into::into)?, negated })
    }
}
