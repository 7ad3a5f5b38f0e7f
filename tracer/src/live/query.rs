//! A reader's query: which reports, from where on, and until when. It is encoded as the query of a URL.

use std::str::FromStr;

use form_urlencoded::{Serializer, parse};
use jiff::{SignedDuration, Timestamp};

use tracer_core::filter::{Filter, FilterError};

/// A query to the agent. The default asks for all reports from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Go on with new reports after those of `last` and `since`.
    pub follow: bool,
    /// The last so many kept reports that pass the filter.
    pub last: Option<u64>,
    /// Only reports on requests since then.
    pub since: Option<Timestamp>,
    /// Only reports that match.
    pub filter: Filter,
}

impl Query {
    /// Does the stream go on with new reports?
    pub fn follows(&self) -> bool {
        self.follow || (self.last.is_none() && self.since.is_none())
    }

    /// The encoded query of a URL.
    pub fn to_text(&self) -> String {
        let mut text = Serializer::new(String::new());
        if self.follow {
            text.append_pair("follow", "true");
        }
        if let Some(last) = self.last {
            text.append_pair("last", &last.to_string());
        }
        if let Some(since) = self.since {
            text.append_pair("since", &since.to_string());
        }
        text.extend_pairs(self.filter.pairs()).finish()
    }

    /// Parses the encoded query of a URL.
    ///
    /// # Errors
    /// One sentence that names the parameter.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for (name, value) in parse(text.as_bytes()) {
            match name.as_ref() {
                "follow" => query.follow = flag(&value)?,
                "last" => {
                    let wrong = |_| format!("last: want a number, and not `{value}`");
                    query.last = Some(value.parse().map_err(wrong)?);
                }
                "since" => {
                    let Since(since) = value.parse().map_err(|error| format!("since: {error}"))?;
                    query.since = Some(since);
                }
                _ => query.filter.add(&name, &value).map_err(|error| match error {
                    FilterError::UnknownName(name) => {
                        let filters = Filter::NAMES.join(", ");
                        format!("there is no parameter `{name}`; there are follow, last, since, and the filters of observe: {filters}")
                    }
                    FilterError::Value { .. } => error.to_string(),
                })?,
            }
        }
        Ok(query)
    }
}

/// The value of a flag: `?follow` and `?follow=true` mean the same.
fn flag(value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("want true or false, and not `{value}`")),
    }
}

/// A time, written as such or as a duration before now: `2026-11-20T11:45:15Z`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub Timestamp);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self(time));
        }
        let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative());
        let time = ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok());
        time.map(Self).ok_or_else(|| {
            "want how long ago, such as 10s, 5m or 1h, or a time, such as 2026-11-20T11:45:15Z".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_survives_being_written_and_parsed() {
        let text = "follow=true&last=7&since=2026-11-20T11%3A45%3A15Z&namespace=%21shop&authority=*.example.com%3A443";
        let query = Query::from_text(text).expect("a query");
        assert!(query.follows() && query.last == Some(7) && query.since.is_some());
        assert_eq!(query.to_text(), text);
        assert_eq!(Query::from_text("").expect("a query"), Query::default());
        let past = Query::from_text("since=5m&flagged").expect("a query");
        assert!(!past.follows() && past.since < Some(Timestamp::now()));
    }

    #[test]
    fn wrong_parameter_is_named_in_the_error() {
        for (text, words) in [
            ("last=many", "last: want a number"),
            ("since=-5m", "since: want how long ago"),
            ("since=yesterday", "since: want how long ago"),
            ("follow=perhaps", "want true or false"),
            ("verdict=none", "verdict: there is no verdict"),
            ("color=red", "no parameter `color`"),
        ] {
            let error = Query::from_text(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
