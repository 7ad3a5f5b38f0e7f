//! What a reader asks for: from where on, until when, and which reports. It is read from a URL's query, and written as
//! one.

use std::str::FromStr;

use form_urlencoded::{Serializer, parse};
use jiff::{SignedDuration, Timestamp};

use tracer_core::filter::{Filter, FilterError};

/// A question to the agent. With nothing said, it is for all that happens from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Also what happens after that which is asked for from the past.
    pub follow: bool,
    /// The last so many reports of the past, of those that pass the filter.
    pub last: Option<u64>,
    /// Only reports on requests sent since then.
    pub since: Option<Timestamp>,
    /// Only these.
    pub filter: Filter,
}

impl Query {
    /// Whether there is more to come once the past was told.
    pub fn follows(&self) -> bool {
        self.follow || (self.last.is_none() && self.since.is_none())
    }

    /// As the query of a URL, encoded.
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

    /// Reads it.
    ///
    /// # Errors
    /// One clear sentence.
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

/// `?follow`, `?follow=true`
fn flag(value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("want true or false, and not `{value}`")),
    }
}

/// A time, or how long ago that was: `5m`, `2026-11-20T11:45:15Z`.
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
    fn a_query_says_the_same_after_it_was_written() {
        let text = "follow=true&last=7&since=2026-11-20T11%3A45%3A15Z&namespace=%21shop&authority=*.example.com%3A443";
        let query = Query::from_text(text).expect("a query");
        assert!(query.follows() && query.last == Some(7) && query.since.is_some());
        assert_eq!(query.to_text(), text);
        assert_eq!(Query::from_text("").expect("a query"), Query::default());
        let past = Query::from_text("since=5m&flagged").expect("a query");
        assert!(!past.follows() && past.since < Some(Timestamp::now()));
    }

    #[test]
    fn what_is_wrong_is_said_in_a_sentence() {
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
