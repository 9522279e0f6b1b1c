//! The function `strftime_now`: today's date where the program runs, as in transformers, or a date that
//! never changes.

use chrono::Local;

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The local time now, in a format of C's `strftime`.
pub(super) fn strftime_now(format: String) -> String {
    let now = Local::now().naive_local().and_utc().timestamp();
    formatted(&format, u64::try_from(now).unwrap_or_default())
}

/// 26 July 2024 in seconds since 1970, the date that templates of Llama 3 have where there is no `strftime_now`.
const FIXED: u64 = 1_721_952_000;

/// A date that never changes, in a format of C's `strftime`.
pub(super) fn strftime_fixed(format: String) -> String {
    formatted(&format, FIXED)
}

/// A moment by its clock, from seconds since 1970.
struct Moment {
    year: u64,
    /// From 0.
    month: u64,
    /// From 1.
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From Monday.
    weekday: u64,
    second_of_day: u64,
}

impl Moment {
    fn of(seconds: u64) -> Self {
        let (days, second_of_day) = (seconds / 86400, seconds % 86400);
        let (mut year, mut rest) = (1970, days);
        while rest >= days_of_year(year) {
            rest -= days_of_year(year);
            year += 1;
        }
        let day_of_year = rest + 1;
        let mut month = 0;
        while rest >= days_of_month(year, month) {
            rest -= days_of_month(year, month);
            month += 1;
        }
        // 1970 began on a Thursday.
        Self { year, month, day: rest + 1, day_of_year, weekday: (days + 3) % 7, second_of_day }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        1 => 28 + u64::from(is_leap(year)),
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

fn formatted(format: &str, seconds: u64) -> String {
    let moment = Moment::of(seconds);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let after = rest.as_str();
        let (bare, letters) = match after.strip_prefix('-') {
            Some(letters) => (true, letters),
            None => (false, after),
        };
        let mut letters = letters.chars();
        match letters.next().and_then(|letter| directive(letter, bare, &moment)) {
            Some(text) => {
                out.push_str(&text);
                rest = letters;
            }
            None => out.push('%'),
        }
    }
    out
}

/// What a directive stands for, `bare` without zeros before it; `None` if it is not known.
fn directive(letter: char, bare: bool, moment: &Moment) -> Option<String> {
    let padded = |number: u64, width: usize| match bare {
        true => number.to_string(),
        false => format!("{number:0width$}"),
    };
    let (hour, minute) = (moment.second_of_day / 3600, moment.second_of_day / 60 % 60);
    let second = moment.second_of_day % 60;
    let (day_name, month) = (DAYS[moment.weekday as usize], MONTHS[moment.month as usize]);
    Some(match letter {
        'Y' => moment.year.to_string(),
        'y' => padded(moment.year % 100, 2),
        'm' => padded(moment.month + 1, 2),
        'B' => month.into(),
        'b' | 'h' => month[..3].into(),
        'd' => padded(moment.day, 2),
        'e' => format!("{:2}", moment.day),
        'j' => padded(moment.day_of_year, 3),
        'A' => day_name.into(),
        'a' => day_name[..3].into(),
        'H' => padded(hour, 2),
        'I' => padded((hour + 11) % 12 + 1, 2),
        'p' => String::from(if hour < 12 { "AM" } else { "PM" }),
        'M' => padded(minute, 2),
        'S' => padded(second, 2),
        'F' => format!("{}-{:02}-{:02}", moment.year, moment.month + 1, moment.day),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        // Python's `datetime.now()` has no time zone, and gives nothing here.
        'Z' | 'z' => String::new(),
        '%' => "%".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_strftime_writes_them() {
        // What Python gives for these seconds.
        let all = "%Y-%m-%d %B %b %A %a %H:%M:%S %I %p %j %y %-d %F %T %%";
        assert_eq!(
            formatted(all, 1_709_210_096),
            "2024-02-29 February Feb Thursday Thu 12:34:56 12 PM 060 24 29 2024-02-29 12:34:56 %"
        );
        assert_eq!(formatted("%d %b %Y, %I %p", 0), "01 Jan 1970, 12 AM");
        assert_eq!(formatted("%-d.%-m.%y", 4_102_444_799), "31.12.99");
        assert_eq!(formatted("100% %q %", 0), "100% %q %");
        assert_eq!(formatted("%H%z%Z", 0), "00");
    }
}
