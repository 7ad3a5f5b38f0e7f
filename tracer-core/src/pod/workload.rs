//! Derives a pod's workload from its labels and name alone, without the Kubernetes API.

use crate::selector::Labels;

/// The workload of a pod: Istio's canonical name, else the recommended `name` label, else the pod's name without the
/// suffixes that its controller added.
pub fn workload(name: &str, labels: &Labels) -> String {
    let label_keys = ["service.istio.io/canonical-name", "app.kubernetes.io/name"];
    let label = label_keys.iter().find_map(|key| labels.get(*key).filter(|value| !value.is_empty()));
    label.map_or_else(|| without_suffixes(name, labels).to_owned(), Clone::clone)
}

/// A pod's name without the suffixes that its controller added.
fn without_suffixes<'a>(name: &'a str, labels: &'a Labels) -> &'a str {
    if let Some(hash) = labels.get("pod-template-hash") {
        // A ReplicaSet's: NAME-HASH-xxxxx.
        let generated = strip_part(name, is_generated).unwrap_or(name);
        return strip_part(generated, |last| last == hash)
            .or_else(|| strip_part(name, |last| last == hash))
            .unwrap_or(generated);
    }
    if labels.contains_key("statefulset.kubernetes.io/pod-name") {
        return strip_part(name, |last| !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
            .unwrap_or(name);
    }
    let job = ["batch.kubernetes.io/job-name", "job-name"].iter().find_map(|key| labels.get(*key));
    if let Some(job) = job.filter(|job| !job.is_empty()) {
        // The name of a CronJob's job ends in the minute it was scheduled for, since the epoch.
        let is_minute = |last: &str| last.len() >= 8 && last.bytes().all(|byte| byte.is_ascii_digit());
        return strip_part(job, is_minute).unwrap_or(job);
    }
    let Some(generated) = strip_part(name, is_generated) else { return name };
    strip_part(generated, is_hash).unwrap_or(generated)
}

/// `name` without its last part, if that is a suffix and something is left.
fn strip_part(name: &str, is_suffix: impl Fn(&str) -> bool) -> Option<&str> {
    let (rest, last) = name.rsplit_once('-')?;
    (!rest.is_empty() && is_suffix(last)).then_some(rest)
}

/// The five characters that Kubernetes adds to a `generateName`.
fn is_generated(part: &str) -> bool {
    part.len() == 5 && is_safe(part)
}

/// The hash of a pod template: the decimal digits of 32 bits, encoded as safe characters.
fn is_hash(part: &str) -> bool {
    (8..=10).contains(&part.len()) && is_safe(part)
}

/// The alphabet of Kubernetes' random names, which leaves out vowels.
/// <https://github.com/kubernetes/apimachinery/blob/v0.34.0/pkg/util/rand/rand.go#L83>
fn is_safe(part: &str) -> bool {
    part.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, labels: &[(&str, &str)], expect: &str) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(workload(name, &labels), expect, "{name} {labels:?}");
    }

    #[test]
    fn labels_take_precedence_over_the_name() {
        let istio = ("service.istio.io/canonical-name", "cart");
        let recommended = ("app.kubernetes.io/name", "basket");
        check("x-7d9f8b6c5d-x2x4z", &[recommended, istio], "cart");
        check("x-7d9f8b6c5d-x2x4z", &[recommended], "basket");
        check("cart-7d9f8b6c5d-x2x4z", &[("app.kubernetes.io/name", "")], "cart");
    }

    #[test]
    fn controller_suffixes_are_removed() {
        check("cart-7d9f8b6c5d-x2x4z", &[], "cart");
        check("cart-7d9-x2x4z", &[("pod-template-hash", "7d9")], "cart");
        check("cart-7d9", &[("pod-template-hash", "7d9")], "cart");
        check(
            "my-cart-v2-5f7d8c9b4-abcde",
            &[("pod-template-hash", "5f7d8c9b4")],
            "my-cart-v2-5f7d8c9b4-abcde",
        );
        check("node-exporter-4xk9z", &[("controller-revision-hash", "6b7f5d8c9")], "node-exporter");
        check("db-0", &[("statefulset.kubernetes.io/pod-name", "db-0")], "db");
        check("backup-29384720-4xk9z", &[("batch.kubernetes.io/job-name", "backup-29384720")], "backup");
        check("import-4xk9z", &[("job-name", "import")], "import");
    }

    #[test]
    fn names_without_a_controller_suffix_stay() {
        for name in
            ["cart", "my-redis", "cart-7d9", "db-0", "etcd-node-1", "x2x4z", "-x2x4z", "", "a-b-c-proxy"]
        {
            check(name, &[], name);
        }
    }
}
