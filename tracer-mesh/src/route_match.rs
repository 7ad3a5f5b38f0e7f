//! Whether a request fits a route's `match`. What the configuration alone cannot answer (a share of requests drawn by
//! lot, metadata set by a filter), or this evaluator cannot (a regular expression that is too large), is "unknown" and
//! says why.
//!
//! Source: envoy `source/common/router/config_impl.cc` `RouteEntryImplBase::matchRoute` and the `matches` of its
//! subclasses; `source/common/http/header_utility.cc` `HeaderUtility::matchHeaders`.

use regex::bytes::RegexBuilder;

use super::http_filter::share;
use super::json::Node;
use super::request::Request;

/// The answer to "does the request fit?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    No,
    /// Cannot be judged, for the reason given, a predicate to "the route"; the likelier answer is given too.
    Unknown {
        why: &'static str,
        likely: bool,
    },
}

/// Whether a value fits a rule. `Err`: it cannot be judged, for the reason given, a predicate to "the rule".
pub(crate) type Fit = Result<bool, &'static str>;

/// Whether all fit: one that does not decides, also where another cannot be judged.
fn all(fits: impl IntoIterator<Item = Fit>) -> Fit {
    let mut so_far = Ok(true);
    for fit in fits {
        match fit {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => so_far = Err(why),
        }
    }
    so_far
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
    let headers = matching.field("headers").items().filter(|matcher| !is_set_by_envoy(matcher));
    let cookies = matching.field("cookies").items();
    let fits = all([fits_path(matching, request), fits_query(matching, request)]
        .into_iter()
        .chain(headers.map(|matcher| fits_header(matcher, request)))
        .chain(cookies.map(|rule| fits_cookie(rule, request))));
    if fits == Ok(false) {
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
    if let Err(why) = fits {
        return Match::Unknown { why, likely: false };
    }
    for (field, why) in [
        ("dynamic_metadata", "depends on metadata that a filter sets, which no dump shows"),
        ("filter_state", "depends on state that a filter sets, which no dump shows"),
        ("path_match_policy", "depends on a path template, which is not evaluated here"),
    ] {
        if matching.field(field).exists() {
            return Match::Unknown { why, likely: false };
        }
    }
    if matching.field("headers").items().any(|matcher| is_set_by_envoy(&matcher)) {
        return Match::Unknown {
            why: "depends on a header that Envoy sets, which no dump shows",
            likely: true,
        };
    }
    match fraction(matching.field("runtime_fraction")) {
        Some(share) if share <= 0.0 => Match::No,
        Some(share) if share < 1.0 => {
            let why = "depends on a share of requests drawn by lot, which no dump shows";
            Match::Unknown { why, likely: share >= 0.5 }
        }
        _ => Match::Yes,
    }
}

fn fits_path(matching: Node<'_>, request: &Request) -> Fit {
    if matching.field("connect_matcher").exists() {
        // ConnectRouteEntryImpl::matches.
        return Ok(request.is_connect());
    }
    let Some(path) = request.path.as_deref() else { return Ok(false) };
    // Path rules see the path without query and fragment; a prefix sees it too (PathMatcher).
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let ignore_case = matching.field("case_sensitive").bool() == Some(false);
    let eq = |a: &str, b: &str| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
    let starts = |a: &str, b: &str| a.get(..b.len()).is_some_and(|start| eq(start, b));
    if let Some(prefix) = matching.field("prefix").str() {
        return Ok(starts(path, prefix));
    }
    if let Some(exact) = matching.field("path").str() {
        return Ok(eq(path, exact));
    }
    if let Some(prefix) = matching.field("path_separated_prefix").str() {
        let rest = path.get(prefix.len()..).unwrap_or_default();
        return Ok(starts(path, prefix) && (rest.is_empty() || rest.starts_with('/')));
    }
    let regex = matching.field("safe_regex");
    if regex.exists() {
        return fits_regex(regex, path);
    }
    if let Some(old) = matching.field("regex").str() {
        return full_match(old, path);
    }
    // A template is judged by the caller; a match without a path rule is `prefix: ""`.
    Ok(true)
}

/// `HeaderUtility::HeaderData::matchesHeaders`.
fn fits_header(matcher: Node<'_>, request: &Request) -> Fit {
    let name = matcher.field("name").str().unwrap_or_default().to_ascii_lowercase();
    let invert = matcher.field("invert_match").is_true();
    let value = request.header(&name);
    if let Some(present) = matcher.field("present_match").bool() {
        return Ok((value.is_some() == present) != invert);
    }
    let Some(value) =
        value.or_else(|| matcher.field("treat_missing_header_as_empty").is_true().then(String::new))
    else {
        // A header that is absent fits no rule on its value, not even an inverted one.
        return Ok(false);
    };
    Ok(fits_value(matcher, &value)? != invert)
}

fn fits_value(matcher: Node<'_>, value: &str) -> Fit {
    if let Some(exact) = matcher.field("exact_match").str() {
        return Ok(value == exact);
    }
    if let Some(prefix) = matcher.field("prefix_match").str() {
        return Ok(value.starts_with(prefix));
    }
    if let Some(suffix) = matcher.field("suffix_match").str() {
        return Ok(value.ends_with(suffix));
    }
    if let Some(part) = matcher.field("contains_match").str() {
        return Ok(value.contains(part));
    }
    let range = matcher.field("range_match");
    if range.exists() {
        let (start, end) =
            (range.field("start").integer().unwrap_or(0), range.field("end").integer().unwrap_or(0));
        return Ok(value.parse::<i64>().is_ok_and(|number| (start..end).contains(&number)));
    }
    let regex = matcher.field("safe_regex_match");
    if regex.exists() {
        return fits_regex(regex, value);
    }
    let string = matcher.field("string_match");
    // Without any rule a header only has to be there.
    if string.exists() { fits_string(string, value) } else { Ok(true) }
}

/// envoy.type.matcher.v3.StringMatcher; source/common/common/matchers.cc `StringMatcherImpl::match`.
pub(crate) fn fits_string(matcher: Node<'_>, value: &str) -> Fit {
    let ignore_case = matcher.field("ignore_case").is_true();
    let fold = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let value_folded = fold(value);
    if let Some(exact) = matcher.field("exact").str() {
        return Ok(value_folded == fold(exact));
    }
    if let Some(prefix) = matcher.field("prefix").str() {
        return Ok(value_folded.starts_with(&fold(prefix)));
    }
    if let Some(suffix) = matcher.field("suffix").str() {
        return Ok(value_folded.ends_with(&fold(suffix)));
    }
    if let Some(part) = matcher.field("contains").str() {
        return Ok(value_folded.contains(&fold(part)));
    }
    let regex = matcher.field("safe_regex");
    if regex.exists() { fits_regex(regex, value) } else { Ok(false) }
}

/// `CookieMatcher` of `source/common/router/config_impl.cc`; cookies are parsed by `Utility::parseCookies`.
fn fits_cookie(rule: Node<'_>, request: &Request) -> Fit {
    let name = rule.field("name").str().unwrap_or_default();
    let cookies = request.header("cookie").unwrap_or_default().replace(',', ";");
    let value = cookies.split(';').find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.trim_matches('"').to_owned())
    });
    let fits = value.map_or(Ok(false), |value| fits_string(rule.field("string_match"), &value))?;
    Ok(fits != rule.field("invert_match").is_true())
}

fn fits_query(matching: Node<'_>, request: &Request) -> Fit {
    let query = request.path.as_deref().and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
    let value_of = |name: &str| {
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    };
    all(matching.field("query_parameters").items().map(|rule| {
        let value = value_of(rule.field("name").str().unwrap_or_default());
        match (value, rule.field("present_match").bool()) {
            (value, Some(present)) => Ok(value.is_some() == present),
            (None, None) => Ok(false),
            (Some(value), None) => {
                let string = rule.field("string_match");
                if string.exists() { fits_string(string, value) } else { Ok(true) }
            }
        }
    }))
}

fn fits_regex(matcher: Node<'_>, value: &str) -> Fit {
    matcher.field("regex").str().map_or(Ok(false), |pattern| full_match(pattern, value))
}

/// The longest pattern that is compiled, in bytes, and the most memory that its program may take. A configuration may have
/// thousands of patterns, and its owner may mean harm: one at these limits takes less than a millisecond.
const MAX_PATTERN: usize = 1 << 10;
const MAX_PROGRAM: usize = 64 << 10;

/// RE2 matches the whole text, and its classes (`\d`, `\w`) are of ASCII:
/// <https://github.com/google/re2/wiki/Syntax>. What compiles there and not here (`\Q`, `\C`) is not judged.
fn full_match(pattern: &str, value: &str) -> Fit {
    const WHY: &str = "has a regular expression that is too large, or of a syntax that is not read here";
    if pattern.len() > MAX_PATTERN {
        return Err(WHY);
    }
    let whole = format!("^(?:{pattern})$");
    let regex =
        RegexBuilder::new(&whole).unicode(false).size_limit(MAX_PROGRAM).dfa_size_limit(MAX_PROGRAM).build();
    regex.map(|regex| regex.is_match(value.as_bytes())).map_err(|_| WHY)
}

/// `runtime_fraction.default_value` as a share of one; a runtime override does not show in a dump.
fn fraction(node: Node<'_>) -> Option<f64> {
    node.exists().then(|| share(node.field("default_value")).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_the_whole_text_and_those_that_are_too_large_are_not_judged() {
        for (pattern, value, fits) in [
            (r"/api/\d+", "/api/42", true),
            (r"/api/\d+", "/api/42/x", false),
            (r"/api/\d+", "/api/\u{664}2", false), // RE2's classes are of ASCII
            ("a|b", "ab", false),
            ("caf\u{e9}", "caf\u{e9}", true),
        ] {
            assert_eq!(full_match(pattern, value), Ok(fits), "{pattern} {value}");
        }
        let long = "x".repeat(MAX_PATTERN + 1);
        for pattern in ["(a{200}){200}", r"\Qa.b\E", "(", long.as_str()] {
            assert!(full_match(pattern, "a").is_err(), "{pattern}");
        }
    }

    #[test]
    fn rule_that_does_not_fit_decides_where_another_cannot_be_judged() {
        let unknown: Fit = Err("is not judged");
        assert_eq!(all([unknown, Ok(false), Ok(true)]), Ok(false));
        assert_eq!(all([Ok(true), unknown]), unknown);
        assert_eq!(all([Ok(true), Ok(true)]), Ok(true));
    }
}
