//! Selection of pods: Kubernetes label selectors, equality- and set-based, and namespaces.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>

use std::{collections::BTreeMap, fmt, str::FromStr};

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;

/// A label selector: all requirements must hold. An empty one selects every pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    condition: Requires,
}

/// What a requirement asks of a label. As in Kubernetes, an absent label meets `NotIn`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requires {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    /// Whether a pod with these labels meets all requirements.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|Requirement { key, condition }| {
            let value = labels.get(key);
            match condition {
                Requires::Exists => value.is_some(),
                Requires::Absent => value.is_none(),
                Requires::In(values) => value.is_some_and(|value| values.contains(value)),
                Requires::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

/// Why a selector or namespace was refused. It quotes only the malformed part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not a requirement.
    #[error(
        "`{0}` is not a requirement; want app=cart, app!=cart, app in (a,b), app notin (a,b), app or !app, with commas \
         between them"
    )]
    Requirement(String),
    /// Not a label's key.
    #[error(
        "`{0}` is not a label key; want NAME or PREFIX/NAME, where NAME has at most 63 of A-Z a-z 0-9 - _ ."
    )]
    Key(String),
    /// Not a label's value.
    #[error(
        "`{0}` is not a label value; want at most 63 of A-Z a-z 0-9 - _ . that begin and end with a letter or digit"
    )]
    Value(String),
    /// Not a namespace.
    #[error("`{0}` is not a namespace; want at most 63 of a-z 0-9 -, with `!` in front to leave it out")]
    Namespace(String),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        split(text).into_iter().map(requirement).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Requirement { key, condition }) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            match condition {
                Requires::Exists => write!(f, "{comma}{key}")?,
                Requires::Absent => write!(f, "{comma}!{key}")?,
                Requires::In(values) => write!(f, "{comma}{key} in ({})", values.join(","))?,
                Requires::NotIn(values) => write!(f, "{comma}{key} notin ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

/// Splits at the commas outside of brackets.
fn split(text: &str) -> Vec<&str> {
    let mut within = false;
    text.split(move |letter| {
        within = (within || letter == '(') && letter != ')';
        letter == ',' && !within
    })
    .map(str::trim)
    .collect()
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let wrong = || SelectorError::Requirement(text.to_owned());
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement { key: checked_key(key)?, condition: Requires::Absent });
    }
    let operator = text.find(|letter: char| letter == '=' || letter == '!' || letter.is_whitespace());
    let Some(at) = operator else {
        return Ok(Requirement { key: checked_key(text)?, condition: Requires::Exists });
    };
    let (key, rest) = (checked_key(&text[..at])?, text[at..].trim());
    let condition = if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        Requires::In(vec![checked_value(value)?])
    } else if let Some(value) = rest.strip_prefix("!=") {
        Requires::NotIn(vec![checked_value(value)?])
    } else if let Some(values) = rest.strip_prefix("in").and_then(set) {
        Requires::In(values?)
    } else if let Some(values) = rest.strip_prefix("notin").and_then(set) {
        Requires::NotIn(values?)
    } else {
        return Err(wrong());
    };
    Ok(Requirement { key, condition })
}

/// Parses `(a, b)`. `None`: there are no brackets.
fn set(text: &str) -> Option<Result<Vec<String>, SelectorError>> {
    let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(inner.split(',').map(checked_value).collect())
}

fn checked_key(text: &str) -> Result<String, SelectorError> {
    let text = text.trim();
    let (prefix, name) = text.split_once('/').unwrap_or(("a", text));
    let is_prefix = !prefix.is_empty()
        && prefix.len() <= 253
        && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    if is_prefix && is_name(name) { Ok(text.to_owned()) } else { Err(SelectorError::Key(text.to_owned())) }
}

fn checked_value(text: &str) -> Result<String, SelectorError> {
    let text = text.trim();
    if text.is_empty() || is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(SelectorError::Value(text.to_owned()))
    }
}

/// <https://github.com/kubernetes/apimachinery/blob/v0.34.0/pkg/util/validation/validation.go#L43>
fn is_name(text: &str) -> bool {
    let ends_well = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A namespace that is wanted, or with `!` in front of it, one that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
    wanted: bool,
}

impl FromStr for Namespace {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let (name, wanted) = text.strip_prefix('!').map_or((text, true), |name| (name, false));
        let is_fit = is_name(name)
            && name.bytes().all(|byte| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !is_fit {
            return Err(SelectorError::Namespace(text.to_owned()));
        }
        Ok(Self { name: name.to_owned(), wanted })
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wanted { "" } else { "!" }, self.name)
    }
}

/// A choice of pods by namespace and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodChoice {
    /// A pod must be in one of the wanted namespaces, if there are any, and in none of the others.
    pub namespaces: Vec<Namespace>,
    /// A pod must meet all of these.
    pub selectors: Vec<Selector>,
}

impl PodChoice {
    /// Whether every pod is wanted, and processes outside of pods too.
    pub fn is_everything(&self) -> bool {
        self.namespaces.is_empty() && self.selectors.is_empty()
    }

    /// Whether a pod of this namespace with these labels is wanted.
    pub fn wants(&self, namespace: &str, labels: &Labels) -> bool {
        let mut listed = self.namespaces.iter().filter(|other| other.wanted).peekable();
        let is_refused = self.namespaces.iter().any(|other| !other.wanted && other.name == namespace);
        let is_listed = listed.peek().is_none() || listed.any(|other| other.name == namespace);
        is_listed && !is_refused && self.selectors.iter().all(|selector| selector.selects(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn selects(selector: &str, pairs: &[(&str, &str)]) -> bool {
        selector.parse::<Selector>().expect(selector).selects(&labels(pairs))
    }

    #[test]
    fn every_form_of_selector_selects_as_in_kubernetes() {
        let cart: &[_] = &[("app", "cart"), ("tier", "web"), ("example.com/owner", "")];
        for yes in [
            "",
            "app",
            "app=cart",
            "app==cart",
            "app = cart , tier=web",
            "app!=bill",
            "none!=x",
            "!none",
            "app in (bill, cart)",
            "app in(cart)",
            "tier notin (db,cache),app=cart",
            "none notin (a)",
            "example.com/owner",
            "example.com/owner=",
            "example.com/owner in (,a)",
        ] {
            assert!(selects(yes, cart), "{yes}");
        }
        for no in
            ["none", "app=", "app=bill", "!app", "app!=cart", "app in (bill)", "app notin (cart)", "app,none"]
        {
            assert!(!selects(no, cart), "{no}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused_with_the_malformed_part() {
        for (text, part) in [
            ("app=a=b", "a=b"),
            ("app in a", "app in a"),
            ("app in (a", "app in (a"),
            ("a,,b", ""),
            ("-app", "-app"),
            ("a/b/c", "a/b/c"),
            ("/a", "/a"),
            ("app=-x", "-x"),
            ("app>3", "app>3"),
            ("app = \u{1b}[2J", "\u{1b}[2J"),
        ] {
            let error = text.parse::<Selector>().expect_err(text);
            assert!(error.to_string().contains(&format!("`{part}`")), "{text}: {error}");
        }
        let (fits, long) = ("a".repeat(63), "a".repeat(64));
        assert!(format!("{fits}={fits}").parse::<Selector>().is_ok());
        assert!(format!("app={long}").parse::<Selector>().is_err());
        assert!(format!("{long}=app").parse::<Selector>().is_err());
    }

    #[test]
    fn selector_is_displayed_as_it_is_parsed() {
        let text = "a in (b),!c,d notin (,e),f";
        let selector: Selector = text.parse().expect("a selector");
        assert_eq!(selector.to_string(), text);
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }

    #[test]
    fn pod_must_be_in_a_wanted_namespace_and_in_no_other() {
        let choice = |given: &[&str]| PodChoice {
            namespaces: given.iter().map(|text| text.parse().expect("a namespace")).collect(),
            ..PodChoice::default()
        };
        let wants = |given: &[&str], namespace| choice(given).wants(namespace, &Labels::new());
        assert!(wants(&[], "shop") && wants(&["shop", "bank"], "bank") && wants(&["!kube-system"], "shop"));
        assert!(
            !wants(&["bank"], "shop") && !wants(&["!shop"], "shop") && !wants(&["shop", "!shop"], "shop")
        );
        assert!(choice(&[]).is_everything() && !choice(&["!shop"]).is_everything());
        assert!("Shop".parse::<Namespace>().is_err() && "!".parse::<Namespace>().is_err());
    }
}
