//! The known name that a mistyped one most likely stands for.

/// The least similarity of a suggestion. clap, which suggests flags and commands in the same way, takes 0.7; names of verdicts
/// have more letters in common than flags, so that would suggest `tunneled` for `none`.
const LEAST: f64 = 0.8;

/// The candidate that is most similar to `name`; `None`: none is similar.
pub fn most_similar<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let rated = candidates.into_iter().map(|candidate| (strsim::jaro(name, candidate), candidate));
    let similar = rated.filter(|(similarity, candidate)| *similarity > LEAST && *candidate != name);
    similar.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::most_similar;

    #[test]
    fn only_similar_names_are_suggested() {
        let names = ["shop", "bank", "kube-system"];
        assert_eq!(most_similar("shpo", names), Some("shop"));
        assert_eq!(most_similar("kubesystem", names), Some("kube-system"));
        assert_eq!(most_similar("zzz", names), None);
        assert_eq!(most_similar("none", ["tunneled", "unanswered"]), None);
        assert_eq!(most_similar("shop", ["shop"]), None, "it is no mistake");
    }
}
