//! A reader's query: which reports, from where on, and until when. It is encoded as the query of a URL.

use std::str::FromStr;

use form_urlencoded::{Serializer, parse};
use jiff::{SignedDuration, Timestamp, Zoned, civil};

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
    /// Only reports on requests up to then.
    pub until: Option<Timestamp>,
    /// Only reports that match.
    pub filter: Filter,
}

impl Query {
    /// Does the stream go on with new reports?
    pub fn follows(&self) -> bool {
        self.follow || (self.last.is_none() && self.since.is_none() && self.until.is_none())
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
        if let Some(until) = self.until {
            text.append_pair("until", &until.to_string());
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
                    let Moment(since) = value.parse().map_err(|error| format!("since: {error}"))?;
                    query.since = Some(since);
                }
                "until" => {
                    let Moment(until) = value.parse().map_err(|error| format!("until: {error}"))?;
                    query.until = Some(until);
                }
                _ => query.filter.add(&name, &value).map_err(|error| match error {
                    FilterError::UnknownName(name) => {
                        let filters = Filter::NAMES.join(", ");
                        format!("there is no parameter `{name}`; there are follow, last, since, until, and the filters of observe: {filters}")
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

/// A time, written as such, as a duration before now, or as a time of day: `2026-11-20T11:45:15Z`, `5m`, `20:55`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        moment(text, &Zoned::now()).map(Self).ok_or_else(|| {
            "want how long ago (10s, 5m, 1h), a time of day (20:55) or a time (2026-11-20T11:45:15Z)"
                .to_owned()
        })
    }
}

/// The moment that `text` means at the time `now`. A time without a zone is one of the zone of `now`; a time of day is the
/// last one that has passed.
fn moment(text: &str, now: &Zoned) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let local = |time: civil::DateTime| Some(time.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    // A date alone is its midnight.
    if let Ok(time) = text.parse::<civil::DateTime>() {
        return local(time);
    }
    // Before durations, one of whose forms is `20:55:10`.
    if let Ok(time) = text.parse::<civil::Time>() {
        let today = local(now.date().to_datetime(time))?;
        let is_past = today <= now.timestamp();
        return if is_past { Some(today) } else { local(now.date().yesterday().ok()?.to_datetime(time)) };
    }
    let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative())?;
    now.timestamp().checked_sub(ago).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_survives_being_written_and_parsed() {
        let text = "follow=true&last=7&since=2026-11-20T11%3A45%3A15Z&until=2026-11-20T11%3A50%3A15Z&namespace=%21shop&authority=*.example.com%3A443";
        let query = Query::from_text(text).expect("a query");
        assert!(query.follows() && query.last == Some(7) && query.since.is_some() && query.until.is_some());
        assert_eq!(query.to_text(), text);
        assert_eq!(Query::from_text("").expect("a query"), Query::default());
        let past = Query::from_text("since=5m&flagged").expect("a query");
        assert!(!past.follows() && past.since < Some(Timestamp::now()));
        assert!(!Query::from_text("until=5m").expect("a query").follows());
    }

    #[test]
    fn moments_are_read_in_the_zone_of_the_terminal() {
        let now: Zoned = "2026-11-20T21:00:00+01:00[+01:00]".parse().expect("a time");
        for (text, wanted) in [
            ("5m", "2026-11-20T19:55:00Z"),
            ("20:55", "2026-11-20T19:55:00Z"),
            ("20:55:10", "2026-11-20T19:55:10Z"),
            ("21:30", "2026-11-19T20:30:00Z"),
            ("2026-11-20T20:55", "2026-11-20T19:55:00Z"),
            ("2026-11-20 20:55", "2026-11-20T19:55:00Z"),
            ("2026-11-20", "2026-11-19T23:00:00Z"),
            ("2026-11-20T20:55:00Z", "2026-11-20T20:55:00Z"),
        ] {
            assert_eq!(moment(text, &now).map(|time| time.to_string()).as_deref(), Some(wanted), "{text}");
        }
        for text in ["-5m", "25:00", "yesterday", "", "5"] {
            assert_eq!(moment(text, &now), None, "{text}");
        }
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
