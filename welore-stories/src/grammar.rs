//! Turns words, phrases and plots into text.
//!
//! In a line of a plot or a phrase,
//!
//! - `{toy}` is a word of the table `toy`, or the word that the cast gave this role, and
//!   `{toy.made}` is another form of it. A word stays the same until the story ends, so stories
//!   are consistent; `{~toy}` is a new word each time.
//! - `{hero.him}`, `.his`, `.himself` follow from the column `he`, and `{animal.noun}` is the
//!   first column without its article.
//! - `[one|two|]` is one of its parts; here the last one is empty.
//! - `<glad:hero>` is a line of the phrase `glad`, in which `{who}` is the hero.
//!
//! `a` becomes `an` where necessary, and sentences begin with a capital, so lines do not depend
//! on which word is drawn.

use std::sync::LazyLock;

use super::phrases::PHRASES;
use super::plots::PLOTS;
use super::random::Random;
use super::words::TABLES;

/// The only grammar, read on first use.
static GRAMMAR: LazyLock<Grammar> = LazyLock::new(Grammar::read);

/// Alternatives, common ones first.
type Lines = Vec<&'static str>;

struct Grammar {
    tables: Vec<Table>,
    phrases: Vec<(&'static str, Lines)>,
    plots: Vec<Plot>,
}

struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<&'static str>>,
}

struct Plot {
    cast: Vec<Role>,
    beats: Vec<Beat>,
}

/// A line of a cast: who or what the story is about.
enum Role {
    /// `hero friend: girl boy | boy girl`: one table per role, with alternatives.
    Drawn { roles: Lines, tables: Vec<Lines> },
    /// `have: 5..9`: a number, all equally likely.
    Number { role: &'static str, low: usize, high: usize },
    /// `left: have - give` or `both: have + give`.
    Sum { role: &'static str, first: &'static str, plus: bool, second: &'static str },
}

/// A step of a plot.
enum Beat {
    /// One of its lines, or possibly nothing if it is optional (`? ` before the first line).
    Lines { optional: bool, lines: Lines },
    /// One of several ways to continue: `either`, `or` and `end`, each a paragraph.
    Fork(Vec<Vec<Beat>>),
}

fn paragraphs(text: &'static str) -> impl Iterator<Item = Lines> {
    text.trim().split("\n\n").map(|paragraph| paragraph.lines().collect())
}

impl Grammar {
    fn read() -> Self {
        let tables = TABLES.iter().flat_map(|text| paragraphs(text)).map(Table::read).collect();
        let phrases = paragraphs(PHRASES).map(|lines| (lines[0], lines[1..].to_vec())).collect();
        Self { tables, phrases, plots: PLOTS.iter().map(|text| Plot::read(text)).collect() }
    }

    fn table(&self, name: &str) -> usize {
        let place = self.tables.iter().position(|table| table.columns[0] == name);
        place.unwrap_or_else(|| panic!("there is no table or role {name:?}"))
    }

    fn phrase(&self, name: &str) -> &Lines {
        let found = self.phrases.iter().find(|(phrase, _)| *phrase == name);
        &found.unwrap_or_else(|| panic!("there is no phrase {name:?}")).1
    }
}

impl Table {
    fn read(lines: Lines) -> Self {
        let columns: Vec<(&str, Option<&str>)> = lines[0]
            .split(" | ")
            .map(|column| {
                column.split_once('=').map_or((column, None), |(c, form)| (c, Some(form)))
            })
            .collect();
        let row = |line: &'static str| {
            let mut fields = line.split(" | ");
            let row = columns.iter().map(|(column, form)| {
                form.or_else(|| fields.next()).unwrap_or_else(|| panic!("{line:?} lacks {column}"))
            });
            let row = row.collect();
            assert!(fields.next().is_none(), "{line:?} has more fields than columns");
            row
        };
        let rows = lines[1..].iter().flat_map(|line| line.split(" / ")).map(row).collect();
        Self { columns: columns.into_iter().map(|(column, _)| column).collect(), rows }
    }

    fn form(&self, row: usize, column: &str) -> &'static str {
        let place = self.columns.iter().position(|name| *name == column);
        place.map(|place| self.rows[row][place]).unwrap_or_else(|| match column {
            "noun" => {
                let words = self.rows[row][0];
                let article = ["the ", "a ", "an "].into_iter().find(|it| words.starts_with(it));
                &words[article.map_or(0, str::len)..]
            }
            "him" | "his" | "himself" => pronoun(self.form(row, "he"), column),
            _ => panic!("{} has no form {column:?}", self.columns[0]),
        })
    }
}

fn pronoun(he: &str, form: &str) -> &'static str {
    match (he, form) {
        ("he", "him") => "him",
        ("he", "his") => "his",
        ("he", "himself") => "himself",
        ("she", "him" | "his") => "her",
        ("she", "himself") => "herself",
        _ => panic!("{he:?} has no form {form:?}"),
    }
}

impl Plot {
    fn read(text: &'static str) -> Self {
        let mut paragraphs = paragraphs(text);
        let cast = paragraphs.next().expect("split gives at least one");
        Self { cast: cast.into_iter().map(Role::read).collect(), beats: beats(&mut paragraphs).0 }
    }
}

/// Reads beats up to the `or` or `end` that closes them, and returns that too.
fn beats(paragraphs: &mut impl Iterator<Item = Lines>) -> (Vec<Beat>, Option<&'static str>) {
    let mut read = Vec::new();
    while let Some(mut lines) = paragraphs.next() {
        match lines[0] {
            "either" => {
                let mut ways = Vec::new();
                loop {
                    let (way, closed_by) = beats(&mut *paragraphs);
                    ways.push(way);
                    if closed_by != Some("or") {
                        break;
                    }
                }
                read.push(Beat::Fork(ways));
            }
            closing @ ("or" | "end") => return (read, Some(closing)),
            first => {
                let sometimes = first.strip_prefix("? ");
                lines[0] = sometimes.unwrap_or(first);
                read.push(Beat::Lines { optional: sometimes.is_some(), lines });
            }
        }
    }
    (read, None)
}

impl Role {
    fn read(line: &'static str) -> Self {
        let (role, what) = line.split_once(": ").expect("a role and what it is");
        let words: Lines = what.split(' ').collect();
        if let Some((low, high)) = what.split_once("..") {
            let number = |text: &str| text.parse().expect("a number");
            Self::Number { role, low: number(low), high: number(high) }
        } else if let [first, sign @ ("+" | "-"), second] = words[..] {
            Self::Sum { role, first, plus: sign == "+", second }
        } else {
            let tables = what.split(" | ").map(|way| way.split(' ').collect()).collect();
            Self::Drawn { roles: role.split(' ').collect(), tables }
        }
    }
}

/// What `{who}` is outside phrases.
const NOBODY: &str = "nobody";

/// A word that a story remembers.
struct Word {
    role: &'static str,
    table: usize,
    row: usize,
}

/// The state of a story being told.
struct Telling<'a> {
    grammar: &'a Grammar,
    random: &'a mut Random,
    words: Vec<Word>,
}

/// Tells one story.
pub fn tell(random: &mut Random) -> String {
    let grammar = &*GRAMMAR;
    let plot = &grammar.plots[random.below(grammar.plots.len())];
    let mut telling = Telling { grammar, random, words: Vec::new() };
    plot.cast.iter().for_each(|role| telling.cast(role));
    let mut story = Vec::new();
    telling.go_through(&plot.beats, &mut story);
    story.join(" ")
}

impl Telling<'_> {
    fn cast(&mut self, role: &Role) {
        let number = self.grammar.table("number");
        match *role {
            Role::Drawn { ref roles, ref tables } => {
                let tables = &tables[self.random.early(tables.len())];
                assert_eq!(roles.len(), tables.len(), "a table for each of {roles:?}");
                for (role, table) in roles.iter().zip(tables) {
                    let table = self.grammar.table(table);
                    let row = self.draw(table);
                    self.words.push(Word { role, table, row });
                }
            }
            Role::Number { role, low, high } => {
                let row = low + self.random.below(high - low + 1);
                self.words.push(Word { role, table: number, row });
            }
            Role::Sum { role, first, plus, second } => {
                let (first, second) = (self.remembered(first).1, self.remembered(second).1);
                let row = if plus { first + second } else { first - second };
                self.words.push(Word { role, table: number, row });
            }
        }
    }

    fn go_through(&mut self, beats: &'static [Beat], story: &mut Vec<String>) {
        for beat in beats {
            match beat {
                Beat::Lines { optional: true, .. } if self.random.below(2) == 0 => {}
                Beat::Lines { lines, .. } => {
                    let mut text = String::new();
                    self.write_one(lines, NOBODY, &mut text);
                    story.push(spelled(&text));
                }
                Beat::Fork(ways) => {
                    let way = self.random.below(ways.len());
                    self.go_through(&ways[way], story);
                }
            }
        }
    }

    fn write_one(&mut self, lines: &[&'static str], who: &'static str, text: &mut String) {
        let line = lines[self.random.early(lines.len())];
        self.write(line, who, text);
    }

    /// Writes a line in which `{who}` is the character of the role `who`.
    fn write(&mut self, line: &'static str, who: &'static str, text: &mut String) {
        let mut rest = line;
        while let Some(at) = rest.find(['{', '<', '[']) {
            text.push_str(&rest[..at]);
            let (bracket, inner) = (&rest[at..=at], enclosed(&rest[at..]));
            match bracket {
                "{" => text.push_str(self.word(inner, who)),
                "<" => {
                    let (phrase, of) = inner.split_once(':').unwrap_or((inner, who));
                    let lines = self.grammar.phrase(phrase);
                    self.write_one(lines, if of == "who" { who } else { of }, text);
                }
                _ => self.write_one(&parts(inner), who, text),
            }
            rest = &rest[at + inner.len() + 2..];
        }
        text.push_str(rest);
    }

    fn word(&mut self, name: &'static str, who: &'static str) -> &'static str {
        let (name, column) = name.split_once('.').unwrap_or((name, ""));
        let (table, row) = match name.strip_prefix('~') {
            Some(table) => {
                let table = self.grammar.table(table);
                (table, self.draw(table))
            }
            None => self.remembered(if name == "who" { who } else { name }),
        };
        let table = &self.grammar.tables[table];
        table.form(row, if column.is_empty() { table.columns[0] } else { column })
    }

    /// Table and row of a role. If no word has the role yet, draws one, which is remembered.
    fn remembered(&mut self, role: &'static str) -> (usize, usize) {
        if let Some(word) = self.words.iter().find(|word| word.role == role) {
            return (word.table, word.row);
        }
        let table = self.grammar.table(role);
        let row = self.draw(table);
        self.words.push(Word { role, table, row });
        (table, row)
    }

    /// A row that has no other role.
    fn draw(&mut self, table: usize) -> usize {
        loop {
            let row = self.random.early(self.grammar.tables[table].rows.len());
            if !self.words.iter().any(|word| (word.table, word.row) == (table, row)) {
                return row;
            }
        }
    }
}

/// The text between its opening bracket and the bracket that closes it.
fn enclosed(text: &str) -> &str {
    let open = text.as_bytes()[0];
    let close = match open {
        b'{' => b'}',
        b'<' => b'>',
        _ => b']',
    };
    let mut depth = 0;
    let end = text.bytes().position(|byte| {
        depth += i32::from(byte == open) - i32::from(byte == close);
        depth == 0
    });
    &text[1..end.unwrap_or_else(|| panic!("a bracket of {text:?} is never closed"))]
}

/// The parts of a choice; nested choices stay whole.
fn parts(choice: &'static str) -> Lines {
    let mut depth = 0;
    let split = choice.split(|letter| {
        depth += i32::from(letter == '[') - i32::from(letter == ']');
        letter == '|' && depth == 0
    });
    split.collect()
}

/// Inserts the capitals that begin sentences and the `n` of `an`.
///
/// After `!"` and `?"` a sentence may continue, so lines write the capital there themselves.
fn spelled(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len() + 8);
    let mut words = text.split(' ').peekable();
    let mut begins = true;
    while let Some(word) = words.next() {
        let quoted = word.starts_with('"');
        let bare = if quoted { &word[1..] } else { word };
        let mut letters = bare.chars();
        match letters.next() {
            Some(first) if begins || quoted => {
                spelled.extend(quoted.then_some('"').into_iter().chain(first.to_uppercase()));
                spelled.push_str(letters.as_str());
            }
            _ => spelled.push_str(word),
        }
        if bare.eq_ignore_ascii_case("a") && words.peek().is_some_and(|next| vowel_sound(next)) {
            spelled.push('n');
        }
        if words.peek().is_some() {
            spelled.push(' ');
        }
        begins = word.ends_with(['.', '!', '?']) || word.ends_with(".\"");
    }
    spelled
}

fn vowel_sound(word: &str) -> bool {
    word.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U'])
        || word.starts_with("honest")
        || word.starts_with("hour")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(beats: &[Beat]) -> Lines {
        let lines = |beat: &Beat| match beat {
            Beat::Lines { lines, .. } => lines.clone(),
            Beat::Fork(ways) => ways.iter().flat_map(|way| lines_of(way)).collect(),
        };
        beats.iter().flat_map(lines).collect()
    }

    #[test]
    fn every_line_of_every_plot_can_be_told() {
        let mut random = Random::new(1);
        for plot in &GRAMMAR.plots {
            for line in lines_of(&plot.beats) {
                let mut telling =
                    Telling { grammar: &GRAMMAR, random: &mut random, words: Vec::new() };
                plot.cast.iter().for_each(|role| telling.cast(role));
                let mut text = String::new();
                telling.write(line, NOBODY, &mut text);
                assert!(!text.contains(['{', '}', '<', '>', '[', ']', '|']), "{line} as {text}");
            }
        }
    }

    #[test]
    fn choices_nest_and_words_are_remembered() {
        let mut random = Random::new(1);
        let mut telling = Telling { grammar: &GRAMMAR, random: &mut random, words: Vec::new() };
        let mut text = String::new();
        telling.write("[[a|a] {toy}|a {toy}]/a {toy}/{~toy}", NOBODY, &mut text);
        let told: Vec<&str> = text.split('/').collect();
        assert_eq!(told[0], told[1]);
        assert_ne!(told[1].trim_start_matches("a "), told[2]);
    }

    #[test]
    fn articles_and_capitals_are_put_in() {
        let text = r#"a owl. "a hour," said a honest bee. a man asked, "may I?" and a elk ate."#;
        let right =
            r#"An owl. "An hour," said an honest bee. A man asked, "May I?" and an elk ate."#;
        assert_eq!(spelled(text), right);
    }
}
