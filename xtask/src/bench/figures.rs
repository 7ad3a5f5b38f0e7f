//! The results of a benchmark: tables for readers, numbers for machines, and targets that are met or missed.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// All results of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    tables: Vec<Table>,
    numbers: Map<String, Value>,
    targets: Vec<Target>,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    /// How it was measured, and its limits.
    pub(crate) note: String,
    pub(crate) head: &'static [&'static str],
    pub(crate) rows: Vec<Vec<String>>,
}

/// A number and the bound that it must meet.
#[derive(Debug)]
struct Target {
    name: String,
    value: f64,
    bound: f64,
    met: bool,
}

impl Figures {
    /// Prints a table, and stores it.
    pub(crate) fn table(&mut self, table: Table) {
        println!("{}", table.markdown());
        self.tables.push(table);
    }

    /// Stores the numbers of a part.
    pub(crate) fn numbers(&mut self, part: &str, numbers: Value) {
        self.numbers.insert(part.to_owned(), numbers);
    }

    /// A target that `value` must not exceed.
    pub(crate) fn at_most(&mut self, name: impl Into<String>, value: f64, bound: f64) {
        self.targets.push(Target { name: name.into(), value, bound, met: value <= bound });
    }

    /// A target that `value` must reach.
    pub(crate) fn at_least(&mut self, name: impl Into<String>, value: f64, bound: f64) {
        self.targets.push(Target { name: name.into(), value, bound, met: value >= bound });
    }

    /// The targets as a table.
    pub(crate) fn targets(&self) -> String {
        let mut text = String::from("| target | value | bound | |\n|---|---|---|---|\n");
        for Target { name, value, bound, met } in &self.targets {
            let word = if *met { "met" } else { "**missed**" };
            let _ = writeln!(text, "| {name} | {} | {} | {word} |", short(*value), short(*bound));
        }
        text
    }

    /// Whether a measured target whose name begins with `name` is missed.
    pub(crate) fn misses(&self, name: &str) -> bool {
        self.targets.iter().any(|target| target.name.starts_with(name) && !target.met)
    }

    /// All tables.
    pub(crate) fn markdown(&self) -> String {
        self.tables.iter().map(Table::markdown).collect()
    }

    /// All results as JSON.
    pub(crate) fn json(&self) -> Value {
        let target = |t: &Target| json!({"name": t.name, "value": t.value, "bound": t.bound, "met": t.met});
        json!({"figures": self.numbers, "targets": self.targets.iter().map(target).collect::<Vec<_>>()})
    }
}

impl Table {
    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n| {} |\n|", self.title, self.note, self.head.join(" | "));
        text.push_str(&"---|".repeat(self.head.len()));
        text.push('\n');
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text.push('\n');
        text
    }
}

/// A number with three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The lower quartile, the median and the upper quartile.
pub(crate) fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get((values.len().saturating_sub(1) * share + 2) / 4).copied();
    [1, 2, 3].map(|share| at(share).unwrap_or(f64::NAN))
}

/// The median.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    let [_, median, _] = quartiles(values);
    median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_of_the_sorted_values() {
        let shown = |values: &[f64]| quartiles(values.to_vec()).map(short).join(" ");
        assert_eq!(shown(&[5.0, 1.0, 4.0, 2.0, 3.0]), "2.00 3.00 4.00");
        assert_eq!(shown(&[7.0]), "7.00 7.00 7.00");
    }

    #[test]
    fn a_target_that_was_not_measured_is_missed() {
        let mut figures = Figures::default();
        figures.at_most("cost", f64::NAN, 1.0);
        figures.at_least("rate", 3.0, 2.0);
        assert_eq!(figures.json()["targets"][0]["met"], false);
        assert_eq!(figures.json()["targets"][1]["met"], true);
        assert_eq!(["cost", "rate", "speed"].map(|name| figures.misses(name)), [true, false, false]);
    }
}
