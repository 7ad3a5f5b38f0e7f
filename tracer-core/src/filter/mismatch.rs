//! Why a filter leaves nothing, with what there is.

use std::collections::BTreeMap;

use super::most_similar;
use crate::{escape::escape_to_ascii, report::ellipsize};

/// How many of the values that there are a sentence names.
const NAMED: usize = 6;
/// The most characters of a value in a sentence.
const LONGEST: usize = 80;

/// `none of the 37 sessions passes --namespace shpo: did you mean shop? There are shop (30), bank (7)`
pub(super) fn sentence(
    filter: &str,
    wanted: &[String],
    sessions: usize,
    there: impl Iterator<Item = String>,
) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for value in there {
        *counts.entry(value).or_default() += 1;
    }
    let plain = |text: &str| escape_to_ascii(&ellipsize(text, LONGEST)).into_owned();
    let given = wanted.iter().map(|value| plain(value)).collect::<Vec<_>>().join(",");
    let none = format!("none of the {sessions} sessions passes --{} {given}", filter.replace('_', "-"));
    if counts.is_empty() {
        return match filter {
            "namespace" | "pod" | "workload" => {
                format!(
                    "{none}: no pod is named, as no container runtime told the names (--runtime-endpoint)"
                )
            }
            _ => none,
        };
    }
    // A similar number is another number.
    let is_name = matches!(filter, "namespace" | "pod" | "workload" | "authority");
    let names = wanted.iter().filter(|_| is_name);
    let guess = names.into_iter().find_map(|name| most_similar(name, counts.keys().map(String::as_str)));
    let guess = guess.map(|guess| format!("did you mean {}? ", plain(guess))).unwrap_or_default();
    let mut listed: Vec<(&String, &usize)> = counts.iter().collect();
    listed.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut values: Vec<String> =
        listed.iter().take(NAMED).map(|(value, count)| format!("{} ({count})", plain(value))).collect();
    if let Some(more) = listed.len().checked_sub(NAMED).filter(|more| *more > 0) {
        values.push(format!("and {more} more"));
    }
    format!("{none}: {guess}there are {}", values.join(", "))
}
