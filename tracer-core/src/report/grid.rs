//! Columns that fit a terminal: each is as wide as its longest value so far, and where the terminal is too narrow for all, the
//! widest give way.

use super::text::ellipsize;

/// Between two columns.
const GAP: &str = "  ";

/// A column.
pub(super) struct Column {
    pub(super) heading: String,
    /// It never becomes narrower than this.
    pub(super) min: usize,
    /// It never becomes wider than this, so that one long value does not widen it for good.
    pub(super) max: usize,
    /// The longest value so far.
    pub(super) width: usize,
    /// It gives way only where no other column can.
    pub(super) is_vital: bool,
}

impl Column {
    /// A column that begins as wide as its heading.
    pub(super) fn new(heading: &str, min: usize, max: usize) -> Self {
        Self { heading: heading.to_owned(), min, max, width: heading.chars().count(), is_vital: false }
    }

    /// The column as one that gives way only where no other can.
    pub(super) fn vital(self) -> Self {
        Self { is_vital: true, ..self }
    }
}

/// Rows of columns.
pub(super) struct Grid {
    columns: Vec<Column>,
    /// The width of the terminal.
    limit: Option<usize>,
}

impl Grid {
    pub(super) fn new(columns: Vec<Column>, limit: Option<usize>) -> Self {
        Self { columns, limit }
    }

    /// The headings as a row.
    pub(super) fn headings(&self) -> Vec<String> {
        self.cut(self.columns.iter().map(|column| column.heading.as_str()))
    }

    /// Widens the columns for these values.
    pub(super) fn widen(&mut self, values: &[String]) {
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.width = column.width.max(value.chars().count().min(column.max));
        }
    }

    /// The values cut to their columns and padded, with the gap before the next one.
    pub(super) fn row(&self, values: &[String]) -> Vec<String> {
        self.cut(values.iter().map(String::as_str))
    }

    fn cut<'a>(&self, values: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut cells: Vec<String> = values
            .zip(self.widths())
            .map(|(value, width)| format!("{:width$}{GAP}", ellipsize(value, width)))
            .collect();
        // Nothing but blanks would follow at the end of the line.
        while let Some(last) = cells.last_mut() {
            last.truncate(last.trim_end().len());
            if !last.is_empty() {
                break;
            }
            cells.pop();
        }
        cells
    }

    /// The width of each column on this terminal.
    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.width).collect();
        let Some(limit) = self.limit else { return widths };
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            let widest = |widths: &[usize], may_be_vital: bool| {
                let columns = widths.iter().zip(&self.columns).enumerate();
                let can_give = columns.filter(|(_, (width, column))| {
                    **width > column.min && (may_be_vital || !column.is_vital)
                });
                can_give.max_by_key(|(_, (width, _))| **width).map(|(at, _)| at)
            };
            let Some(at) = widest(&widths, false).or_else(|| widest(&widths, true)) else { break };
            widths[at] -= 1;
        }
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widest_columns_give_way_on_a_narrow_terminal() {
        let columns = || vec![Column::new("A", 2, 9), Column::new("B", 2, 9), Column::new("C", 2, 9)];
        let values = ["aaaaaaaaaaaa", "bbbb", "ccccccc"].map(str::to_owned);
        for (limit, wanted) in [
            (None, "aaaaaa…aa  bbbb  ccccccc"),
            (Some(30), "aaaaaa…aa  bbbb  ccccccc"),
            (Some(20), "aaaa…a  bbbb  cccc…c"),
            (Some(10), "a…  b…  c…"),
            (Some(5), "a…  b…  c…"),
        ] {
            let mut grid = Grid::new(columns(), limit);
            grid.widen(&values);
            assert_eq!(grid.row(&values).concat(), wanted, "{limit:?}");
        }
    }

    #[test]
    fn columns_keep_their_width_for_shorter_values_and_end_without_blanks() {
        let mut grid = Grid::new(vec![Column::new("NAME", 2, 20), Column::new("B", 2, 9)], None);
        let row = |name: &str, other: &str| [name.to_owned(), other.to_owned()];
        grid.widen(&row("long-name", "b"));
        assert_eq!(grid.headings().concat(), "NAME       B");
        assert_eq!(grid.row(&row("short", "b")).concat(), "short      b");
        assert_eq!(grid.row(&row("short", "")).concat(), "short");
    }
}
