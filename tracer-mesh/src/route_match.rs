//! Whether a request fits a route's `match`. What the configuration alone cannot answer (a share of requests drawn by
//! lot, metadata set by a filter) is "unknown" and says why.
//!
//! Source: envoy `source/common/router/config_impl.cc` `RouteEntryImplBase::matchRoute` and the `matches` of its
//! subclasses; `source/common/http/header_utility.cc` `HeaderUtility::matchHeaders`.

use regex::Regex;

use super::http_filter::share;
use super::json::Node;
use super::request::Request;

/// The answer to "does the request fit?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    No,
    /// Cannot be judged, for the reason given; the likelier answer is given too.
    Unknown {
        why: &'static str,
        likely: bool,
    },
}

/// Headers that Envoy sets by itself, from the peer's address or by chance.
const SET_BY_ENVOY: [&str; 6] = [
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-client-cert",
    "x-forwarded-port",
    "x-envoy-internal",
    "x-envoy-external-address",
];

/// Judges `matching` (envoy.config.route.v3.RouteMatch) on `request`.
pub(crate) fn judge(matching: Node<'_>, request: &Request) -> Match {
    let is_set_by_envoy = |matcher: &Node<'_>| {
        matcher
            .field("name")
            .str()
            .is_some_and(|name| SET_BY_ENVOY.contains(&name.to_ascii_lowercase().as_str()))
    };
    let mut headers = matching.field("headers").items().filter(|matcher| !is_set_by_envoy(matcher));
    let fits = fits_path(matching, request)
        && headers.all(|matcher| fits_header(matcher, request))
        && fits_query(matching, request);
    if !fits {
        return Match::No;
    }
    let is_grpc = request.header("content-type").is_some_and(|value| value.starts_with("application/grpc"));
    if matching.field("grpc").exists() && !is_grpc {
        return Match::No;
    }
    // The sidecar's listener is plaintext: no certificate was presented.
    let certificate = matching.field("tls_context");
    if certificate.field("presented").is_true() || certificate.field("validated").is_true() {
        return Match::No;
    }
    if !matching.field("cookies").items().all(|rule| fits_cookie(rule, request)) {
        return Match::No;
    }
    for (field, why) in [
        ("dynamic_metadata", "metadata that a filter sets"),
        ("filter_state", "state that a filter sets"),
        ("path_match_policy", "a path template"),
    ] {
        if matching.field(field).exists() {
            return Match::Unknown { why, likely: false };
        }
    }
    if matching.field("headers").items().any(|matcher| is_set_by_envoy(&matcher)) {
        return Match::Unknown { why: "a header that Envoy sets", likely: true };
    }
    match fraction(matching.field("runtime_fraction")) {
        Some(share) if share <= 0.0 => Match::No,
        Some(share) if share < 1.0 => {
            Match::Unknown { why: "a share of requests drawn by lot", likely: share >= 0.5 }
        }
        _ => Match::Yes,
    }
}

fn fits_path(matching: Node<'_>, request: &Request) -> bool {
    if matching.field("connect_matcher").exists() {
        // ConnectRouteEntryImpl::matches.
        return request.is_connect();
    }
    let Some(path) = request.path.as_deref() else { return false };
    // Path rules see the path without query and fragment; a prefix sees it too (PathMatcher).
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let ignore_case = matching.field("case_sensitive").bool() == Some(false);
    let eq = |a: &str, b: &str| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
    let starts = |a: &str, b: &str| a.get(..b.len()).is_some_and(|start| eq(start, b));
    if let Some(prefix) = matching.field("prefix").str() {
        return starts(path, prefix);
    }
    if let Some(exact) = matching.field("path").str() {
        return eq(path, exact);
    }
    if let Some(prefix) = matching.field("path_separated_prefix").str() {
        let rest = path.get(prefix.len()..).unwrap_or_default();
        return starts(path, prefix) && (rest.is_empty() || rest.starts_with('/'));
    }
    let regex = matching.field("safe_regex");
    if regex.exists() {
        return fits_regex(regex, path);
    }
    if let Some(old) = matching.field("regex").str() {
        return full_match(old, path);
    }
    // A template is judged by the caller; a match without a path rule is `prefix: ""`.
    true
}

/// `HeaderUtility::HeaderData::matchesHeaders`.
fn fits_header(matcher: Node<'_>, request: &Request) -> bool {
    let name = matcher.field("name").str().unwrap_or_default().to_ascii_lowercase();
    let invert = matcher.field("invert_match").is_true();
    let value = request.header(&name);
    if let Some(present) = matcher.field("present_match").bool() {
        return (value.is_some() == present) != invert;
    }
    let Some(value) =
        value.or_else(|| matcher.field("treat_missing_header_as_empty").is_true().then(String::new))
    else {
        // A header that is absent fits no rule on its value, not even an inverted one.
        return false;
    };
    fits_value(matcher, &value) != invert
}

fn fits_value(matcher: Node<'_>, value: &str) -> bool {
    if let Some(exact) = matcher.field("exact_match").str() {
        return value == exact;
    }
    if let Some(prefix) = matcher.field("prefix_match").str() {
        return value.starts_with(prefix);
    }
    if let Some(suffix) = matcher.field("suffix_match").str() {
        return value.ends_with(suffix);
    }
    if let Some(part) = matcher.field("contains_match").str() {
        return value.contains(part);
    }
    let range = matcher.field("range_match");
    if range.exists() {
        let (start, end) =
            (range.field("start").integer().unwrap_or(0), range.field("end").integer().unwrap_or(0));
        return value.parse::<i64>().is_ok_and(|number| (start..end).contains(&number));
    }
    let regex = matcher.field("safe_regex_match");
    if regex.exists() {
        return fits_regex(regex, value);
    }
    let string = matcher.field("string_match");
    // Without any rule a header only has to be there.
    !string.exists() || fits_string(string, value)
}

/// envoy.type.matcher.v3.StringMatcher; source/common/common/matchers.cc `StringMatcherImpl::match`.
pub(crate) fn fits_string(matcher: Node<'_>, value: &str) -> bool {
    let ignore_case = matcher.field("ignore_case").is_true();
    let fold = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let value_folded = fold(value);
    if let Some(exact) = matcher.field("exact").str() {
        return value_folded == fold(exact);
    }
    if let Some(prefix) = matcher.field("prefix").str() {
        return value_folded.starts_with(&fold(prefix));
    }
    if let Some(suffix) = matcher.field("suffix").str() {
        return value_folded.ends_with(&fold(suffix));
    }
    if let Some(part) = matcher.field("contains").str() {
        return value_folded.contains(&fold(part));
    }
    let regex = matcher.field("safe_regex");
    regex.exists() && fits_regex(regex, value)
}

/// `CookieMatcher` of `source/common/router/config_impl.cc`; cookies are parsed by `Utility::parseCookies`.
fn fits_cookie(rule: Node<'_>, request: &Request) -> bool {
    let name = rule.field("name").str().unwrap_or_default();
    let cookies = request.header("cookie").unwrap_or_default().replace(',', ";");
    let value = cookies.split(';').find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.trim_matches('"').to_owned())
    });
    let fits = value.is_some_and(|value| fits_string(rule.field("string_match"), &value));
    fits != rule.field("invert_match").is_true()
}

fn fits_query(matching: Node<'_>, request: &Request) -> bool {
    let query = request.path.as_deref().and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
    let value_of = |name: &str| {
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    };
    matching.field("query_parameters").items().all(|rule| {
        let value = value_of(rule.field("name").str().unwrap_or_default());
        match (value, rule.field("present_match").bool()) {
            (value, Some(present)) => value.is_some() == present,
            (None, None) => false,
            (Some(value), None) => {
                let string = rule.field("string_match");
                !string.exists() || fits_string(string, value)
            }
        }
    })
}

fn fits_regex(matcher: Node<'_>, value: &str) -> bool {
    matcher.field("regex").str().is_some_and(|pattern| full_match(pattern, value))
}

/// RE2 matches the whole text; a pattern that does not compile here (it is hostile or too large) fits nothing.
fn full_match(pattern: &str, value: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(value))
}

/// `runtime_fraction.default_value` as a share of one; a runtime override does not show in a dump.
fn fraction(node: Node<'_>) -> Option<f64> {
    node.exists().then(|| share(node.field("default_value")).unwrap_or(0.0))
}
