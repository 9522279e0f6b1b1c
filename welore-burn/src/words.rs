//! Numbers as messages say them.

use std::fmt::Display;

/// `1 step`, `2 steps`: a number of things whose plural ends in s.
pub(crate) fn number_of<N: Display + PartialEq + From<u8>>(count: N, thing: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// `1 matrix`, `2 matrices`.
pub(crate) fn number_of_matrices(count: usize) -> String {
    format!("{count} {}", if count == 1 { "matrix" } else { "matrices" })
}

/// `0.25`, `1e-300`: a number with as many digits as it takes, and an exponent instead of many
/// zeros.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-5..1e15).contains(&size) || !size.is_finite() => {
            value.to_string()
        }
        _ => format!("{value:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_many() {
        assert_eq!([number_of(0u64, "byte"), number_of(1u64, "byte")], ["0 bytes", "1 byte"]);
        assert_eq!(number_of(2usize, "window"), "2 windows");
        assert_eq!([number_of_matrices(1), number_of_matrices(0)], ["1 matrix", "0 matrices"]);
    }

    #[test]
    fn numbers_are_never_hundreds_of_digits_long() {
        for (value, said) in [
            (0.0, "0"),
            (-1.5, "-1.5"),
            (1.0 / 3.0, "0.3333333333333333"),
            (1e-4, "0.0001"),
            (1e-300, "1e-300"),
            (-2.5e300, "-2.5e300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), said);
        }
    }
}
