//! Numbers and tables for people.

use comfy_table::{CellAlignment, Table, presets};
use welore_burn::escape;
use welore_burn::train::Score;

/// `112616064` as `112.6 M`.
pub fn count(value: u64) -> String {
    scaled(value, &["", " k", " M", " G", " T"])
}

/// `1 step`, `2 steps`: a number of things whose plural ends in s.
pub fn number_of(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// `1 matrix`, `2 matrices`.
pub fn matrices(count: usize) -> String {
    format!("{count} {}", if count == 1 { "matrix" } else { "matrices" })
}

/// `1 of 28 matrices is low`, `3 of 28 matrices are low`: what some matrices are, in the words for
/// one and for several.
pub fn some_matrices(some: usize, all: usize, [one, several]: [&str; 2]) -> String {
    format!("{some} of {} {}", matrices(all), if some == 1 { one } else { several })
}

/// `538060032` as `538.1 MB`.
pub fn bytes(value: u64) -> String {
    scaled(value, &[" B", " kB", " MB", " GB", " TB"])
}

/// `48.13` as `48.1 s`, `200.0` as `3 min 20 s`, `3900.0` as `1 h 5 min`.
pub fn time(seconds: f64) -> String {
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn scaled(value: u64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 999.95 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value}{}", units[0]),
        _ => format!("{scaled:.1}{}", units[unit]),
    }
}

/// `0.8372` as `83.7%`.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Perplexity with at least four significant digits, even if it is huge.
pub fn perplexity(value: f64) -> String {
    match value {
        v if v < 1000.0 => format!("{v:.3}"),
        v if v < 1e6 => format!("{v:.0}"),
        v => format!("{v:.3e}"),
    }
}

/// A score with its name, as in `perplexity 23.650`.
pub fn score(score: Score) -> String {
    let value = match score {
        Score::Perplexity(value) => perplexity(value),
        Score::Accuracy(value) => percent(value),
    };
    format!("{} {value}", score.name())
}

/// A table without rules; all columns except the first are aligned to the right. Every cell is
/// escaped.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    let escaped = |cell: &str| escape::terminal(cell).into_owned();
    table.load_style(presets::NOTHING).set_header(header.iter().copied().map(escaped));
    table.add_rows(
        rows.into_iter().map(|row| row.iter().map(|cell| escaped(cell)).collect::<Vec<String>>()),
    );
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// Comma-separated values, one line for the header and one for each row. Every cell is escaped, so it
/// holds no line break; a cell with a comma or a quote is quoted.
pub fn csv(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |cell: &str| {
        let cell = escape::terminal(cell);
        match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.into_owned(),
        }
    };
    let header = header.iter().map(|name| cell(name)).collect::<Vec<String>>().join(",");
    let line = |row: &Vec<String>| row.iter().map(|text| cell(text)).collect::<Vec<_>>().join(",");
    let lines = std::iter::once(header).chain(rows.iter().map(line));
    lines.collect::<Vec<String>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_quotes_do_not_move_values_to_other_columns() {
        let row = |name: &str| vec![name.to_string(), "1".into()];
        let text = csv(&["a,b", "c"], &[row("x \"y\", z"), row("plain"), row("u\nv")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["\"a,b\",c", "\"x \"\"y\"\", z\",1", "plain,1"]);
        assert_eq!(lines.len(), 4, "{text}");
    }

    #[test]
    fn cells_of_a_table_stay_in_their_row() {
        let row = |name: &str| vec![name.to_string(), "1".into()];
        let text = table(&["a\u{7}", "b"], vec![row("x\ny\u{1b}[2J"), row("z")]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
    }

    #[test]
    fn numbers_are_said_in_units_that_people_use() {
        assert_eq!([count(999), count(112_616_064)], ["999", "112.6 M"]);
        assert_eq!([bytes(0), bytes(538_060_032), bytes(999_960)], ["0 B", "538.1 MB", "1.0 MB"]);
        let times = [0.04, 48.13, 99.96, 200.0, 3599.7, 3900.0].map(time);
        assert_eq!(
            times,
            ["0.0 s", "48.1 s", "1 min 40 s", "3 min 20 s", "1 h 0 min", "1 h 5 min"]
        );
    }

    #[test]
    fn one_is_not_said_as_several() {
        assert_eq!([number_of(1, "step"), number_of(0, "step")], ["1 step", "0 steps"]);
        let low = |some, all| some_matrices(some, all, ["is low", "are low"]);
        assert_eq!([low(1, 28), low(0, 1)], ["1 of 28 matrices is low", "0 of 1 matrix are low"]);
    }
}
