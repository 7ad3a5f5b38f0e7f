//! Evaluates a match tree (`xds.type.matcher.v3.Matcher`), as listeners choose filter chains and virtual hosts choose
//! routes by it. An input or a rule that is not understood is named instead of guessed.
//!
//! Source: envoy `source/common/matcher/matcher.h`, `exact_map_matcher.h`, `prefix_map_matcher.h`, `list_matcher.h`.

use super::json::{Extension, Node};
use super::route_match::fits_string;

/// The value of an input: `Ok(None)` where the connection or request has none.
pub(crate) type Input = Result<Option<String>, String>;

/// The action that `matcher` ends in; `Ok(None)` where nothing matches; `Err` names what is not understood.
pub(crate) fn evaluate<'a>(
    matcher: Node<'a>,
    input: &dyn Fn(&Extension<'_>) -> Input,
) -> Result<Option<Extension<'a>>, String> {
    let tree = matcher.field("matcher_tree");
    let hit = if tree.exists() {
        in_tree(tree, input)?
    } else if matcher.field("matcher_list").exists() {
        in_list(matcher.field("matcher_list"), input)?
    } else {
        None
    };
    if let Some(hit) = hit
        && let Some(action) = on_match(hit, input)?
    {
        return Ok(Some(action));
    }
    let otherwise = matcher.field("on_no_match");
    if otherwise.exists() { on_match(otherwise, input) } else { Ok(None) }
}

fn on_match<'a>(
    node: Node<'a>,
    input: &dyn Fn(&Extension<'_>) -> Input,
) -> Result<Option<Extension<'a>>, String> {
    if node.field("keep_matching").is_true() {
        return Err("a match tree with keep_matching".to_owned());
    }
    let nested = node.field("matcher");
    if nested.exists() { evaluate(nested, input) } else { Ok(Some(node.field("action").extension())) }
}

fn in_tree<'a>(tree: Node<'a>, input: &dyn Fn(&Extension<'_>) -> Input) -> Result<Option<Node<'a>>, String> {
    let value = input(&tree.field("input").extension())?;
    let exact = tree.field("exact_match_map").field("map");
    if exact.exists() {
        let hit = value.map(|value| exact.key(&value)).filter(|hit| hit.exists());
        return Ok(hit);
    }
    let prefixes = tree.field("prefix_match_map").field("map");
    if let Some(members) = prefixes.members() {
        let Some(value) = value else { return Ok(None) };
        let longest = members.keys().filter(|key| value.starts_with(*key)).max_by_key(|key| key.len());
        return Ok(longest.map(|key| prefixes.key(key)));
    }
    Err("a match tree with a custom rule".to_owned())
}

fn in_list<'a>(list: Node<'a>, input: &dyn Fn(&Extension<'_>) -> Input) -> Result<Option<Node<'a>>, String> {
    for entry in list.field("matchers").items() {
        if fits(entry.field("predicate"), input)? {
            return Ok(Some(entry.field("on_match")));
        }
    }
    Ok(None)
}

fn fits(predicate: Node<'_>, input: &dyn Fn(&Extension<'_>) -> Input) -> Result<bool, String> {
    let single = predicate.field("single_predicate");
    if single.exists() {
        let rule = single.field("value_match");
        if !rule.exists() {
            return Err("a match tree with a custom rule".to_owned());
        }
        let value = input(&single.field("input").extension())?;
        return value.map_or(Ok(false), |value| {
            fits_string(rule, &value).map_err(|why| format!("a match tree with a rule that {why}"))
        });
    }
    for (name, all) in [("and_matcher", true), ("or_matcher", false)] {
        let group = predicate.field(name);
        if group.exists() {
            for part in group.field("predicate").items() {
                if fits(part, input)? != all {
                    return Ok(!all);
                }
            }
            return Ok(all);
        }
    }
    let negated = predicate.field("not_matcher");
    if negated.exists() {
        return Ok(!fits(negated, input)?);
    }
    Err("a match tree with a predicate of another kind".to_owned())
}
