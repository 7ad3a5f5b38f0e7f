//! One value of a filter, which may be negated, and how several combine.

use std::{fmt, str::FromStr};

use super::ValueError;
use crate::{escape::escape, report::Report, selector::Selector};

/// How the values of one filter combine.
pub(super) trait Criterion: Sized {
    /// Whether a report meets all these values together. No values: it does.
    fn hold(values: &[Self], report: &Report) -> bool;

    /// What a report has that is compared with such values, for a message. `None`: nothing to name.
    fn value_of(report: &Report) -> Option<String>;

    /// The values in a text: commas separate them.
    fn split(text: &str) -> impl Iterator<Item = &str> {
        text.split(',')
    }
}

/// A value that a report can be compared with.
pub(super) trait Matches {
    fn matches(&self, report: &Report) -> bool;

    /// What the report has that is compared.
    fn value_of(report: &Report) -> Option<String>;
}

/// A value, or with `!` in front of it, everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition<T> {
    value: T,
    negated: bool,
}

impl<T> Condition<T> {
    /// Whether it asks for the value, and does not leave it out.
    pub(super) fn is_wanted(&self) -> bool {
        !self.negated
    }
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

    fn value_of(report: &Report) -> Option<String> {
        T::value_of(report)
    }
}

impl Criterion for Selector {
    /// Every selector selects the pod's labels.
    fn hold(selectors: &[Self], report: &Report) -> bool {
        let labels = report.source.owner.as_ref().map(|pod| &pod.labels);
        selectors.iter().all(|selector| labels.is_some_and(|labels| selector.selects(labels)))
    }

    /// A pod has many labels, most of which no person chose.
    fn value_of(_: &Report) -> Option<String> {
        None
    }

    /// A selector has commas of its own.
    fn split(text: &str) -> impl Iterator<Item = &str> {
        std::iter::once(text)
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
        let value = text.parse().map_err(|error: T::Err| match error.into() {
            ValueError::Verdict(_) => ValueError::Verdict(escape(text).into_owned()), // strum does not keep it
            other => other,
        });
        Ok(Self { value: value?, negated })
    }
}
