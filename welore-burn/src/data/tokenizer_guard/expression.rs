//! Regular expressions of a tokenizer, read into what decides how long they run.

use onig::Regex;

use super::pattern::span_of;

const MAX_DEPTH: usize = 32;

/// The most times that a thing is repeated, unless as often as possible.
const MAX_TIMES: usize = 1000;

/// Quantifiers that may follow each other.
const MAX_QUANTIFIERS: usize = 4;

const ENDLESS: usize = usize::MAX;

/// What matches some of both runs over words and what is between them, so over any text.
const LETTERS: [&str; 4] = ["e", "E", "的", "о"];
const GAPS: [&str; 4] = [" ", ",", "，", "。"];

/// POSIX brackets, the only ones that are not sets in a set.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// A part of an expression.
pub(super) enum Node {
    /// One character.
    One {
        letter: bool,
        gap: bool,
    },
    /// A place, such as the end of a line.
    Place,
    Group(Vec<Vec<Node>>),
    /// A condition on what follows or goes before.
    Look(Vec<Vec<Node>>),
    Repeat {
        node: Box<Node>,
        least: usize,
        most: usize,
    },
}

/// Reads an expression, as the branches of which one has to match.
///
/// # Errors
///
/// An operator that no published tokenizer needs, or what is broken.
pub(super) fn parse(source: &str) -> Result<Vec<Vec<Node>>, String> {
    let mut parser = Parser { source, at: 0, depth: 0 };
    let branches = parser.branches()?;
    match parser.at < source.len() {
        true => Err("it has a `)` too many".into()),
        false => Ok(branches),
    }
}

struct Parser<'a> {
    source: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// What is before the next `end`, which is taken as well.
    fn until(&mut self, end: &str) -> Result<&'a str, String> {
        let (inside, _) =
            self.rest().split_once(end).ok_or_else(|| format!("`{end}` is missing"))?;
        self.at += inside.len() + end.len();
        Ok(inside)
    }

    fn branches(&mut self) -> Result<Vec<Vec<Node>>, String> {
        let mut branches = vec![self.branch()?];
        while self.eat("|") {
            branches.push(self.branch()?);
        }
        Ok(branches)
    }

    fn branch(&mut self) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        while self.peek().is_some_and(|next| !matches!(next, '|' | ')')) {
            if let Some(node) = self.node()? {
                nodes.push(self.repeated(node)?);
            }
        }
        Ok(nodes)
    }

    /// The next thing without its quantifiers; `None` for options, which match nothing.
    fn node(&mut self) -> Result<Option<Node>, String> {
        let start = self.at;
        let node = match self.next().ok_or("it ends too early")? {
            '(' => return self.group(),
            '[' => {
                self.set(0)?;
                self.tested(start)?
            }
            '\\' => self.escape(start)?,
            '.' => Node::One { letter: true, gap: true },
            '^' | '$' => Node::Place,
            quantifier @ ('*' | '+' | '?') => {
                return Err(format!("`{quantifier}` has nothing to repeat"));
            }
            literal => one(literal),
        };
        Ok(Some(node))
    }

    /// A node with the quantifiers behind it.
    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let mut node = node;
        for _ in 0..=MAX_QUANTIFIERS {
            let simple = [("*", 0, ENDLESS), ("+", 1, ENDLESS), ("?", 0, 1)];
            let simple = simple.into_iter().find(|(sign, ..)| self.eat(sign));
            let (least, most) = if let Some((_, least, most)) = simple {
                // Lazy or possessive.
                let _ = self.eat("?") || self.eat("+");
                (least, most)
            } else if let Some((least, most)) = self.times()? {
                // `{2}?` is optional, and `{2}+` repeated.
                let _ = least != most && self.eat("?");
                (least, most)
            } else {
                return Ok(node);
            };
            node = Node::Repeat { node: Box::new(node), least, most };
        }
        Err("it has too many quantifiers".into())
    }

    /// `{2}`, `{2,}`, `{,3}` or `{2,3}`; other braces stand for themselves.
    fn times(&mut self) -> Result<Option<(usize, usize)>, String> {
        let inside = self.rest().strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let Some((inside, _)) = inside else { return Ok(None) };
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(least) || !is_number(most) || (least.is_empty() && most.is_empty()) {
            return Ok(None);
        }
        let number = |text: &str, default: usize| match text {
            "" => Ok(default),
            _ => text
                .parse::<usize>()
                .ok()
                .filter(|n| *n <= MAX_TIMES)
                .ok_or("a number is too large"),
        };
        let (least, most) = (number(least, 0)?, number(most, ENDLESS)?);
        if least > most {
            return Err("the numbers of a quantifier are in the wrong order".into());
        }
        self.at += inside.len() + 2;
        Ok(Some((least, most)))
    }

    /// A group whose `(` was taken.
    fn group(&mut self) -> Result<Option<Node>, String> {
        let behind = self.eat("?<=") || self.eat("?<!");
        let look = behind || self.eat("?=") || self.eat("?!");
        if !look && !self.opening()? {
            return Ok(None);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        let branches = self.branches()?;
        self.depth -= 1;
        if !self.eat(")") {
            return Err("`)` is missing".into());
        }
        let fixed = |branch: &Vec<Node>| {
            let (shortest, longest) = span_of(std::slice::from_ref(branch));
            shortest == longest
        };
        if behind && !branches.iter().all(fixed) {
            return Err("it looks behind at what varies in length".into());
        }
        Ok(Some(if look { Node::Look(branches) } else { Node::Group(branches) }))
    }

    /// What stands between the `(` of a group and its content; false for options without content.
    fn opening(&mut self) -> Result<bool, String> {
        if self.peek() == Some('*') {
            return Err("it has a callout".into());
        }
        if !self.eat("?") || self.eat(":") {
            return Ok(true);
        }
        if self.eat("<") {
            let name = self.until(">")?;
            let sound = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            return if sound { Ok(true) } else { Err("a group has an odd name".into()) };
        }
        while self.peek().is_some_and(|next| matches!(next, 'i' | 'm' | 's' | '-')) {
            self.next();
        }
        match self.next() {
            Some(':') => Ok(true),
            Some(')') => Ok(false),
            _ => Err("it has a group of an unusual kind".into()),
        }
    }

    /// The rest of a set, which has another one in it where another `[` is.
    fn set(&mut self, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        self.eat("^");
        // A `]` here stands for itself.
        self.eat("]");
        loop {
            match self.next().ok_or("`]` is missing")? {
                ']' => return Ok(()),
                '\\' => {
                    self.next();
                }
                '[' if self.eat(":") => {
                    let name = self.until(":]")?;
                    if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
                        return Err("it has an unknown bracket".into());
                    }
                }
                '[' => self.set(depth + 1)?,
                _ => {}
            }
        }
    }

    /// The rest of what begins with a backslash at `start`.
    fn escape(&mut self, start: usize) -> Result<Node, String> {
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match self.next().ok_or("it ends with a backslash")? {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'h' | 'H' => self.tested(start),
            'p' | 'P' if self.eat("{") => {
                self.until("}")?;
                self.tested(start)
            }
            'x' if self.eat("{") => {
                if !is_hex(self.until("}")?) {
                    return Err("it has more than one character in `\\x`".into());
                }
                self.tested(start)
            }
            digits @ ('x' | 'u') => {
                let most = if digits == 'x' { 2 } else { 4 };
                for _ in 0..most {
                    if self.peek().is_some_and(|next| next.is_ascii_hexdigit()) {
                        self.next();
                    }
                }
                self.tested(start)
            }
            'R' => {
                let node = Box::new(Node::One { letter: false, gap: false });
                Ok(Node::Repeat { node, least: 1, most: 2 })
            }
            'A' | 'z' | 'Z' | 'b' | 'B' => Ok(Node::Place),
            't' | 'n' | 'r' | 'f' | 'v' => Ok(Node::One { letter: false, gap: false }),
            other if other.is_ascii_alphanumeric() => Err(format!("it has `\\{other}`")),
            literal => Ok(one(literal)),
        }
    }

    /// A set or class from `start` on, as Oniguruma understands it.
    fn tested(&self, start: usize) -> Result<Node, String> {
        let source = &self.source[start..self.at];
        let regex = Regex::new(source).map_err(|error| error.description().to_string())?;
        let any = |samples: &[&str]| samples.iter().any(|sample| regex.is_match(sample));
        Ok(Node::One { letter: any(&LETTERS), gap: any(&GAPS) })
    }
}

/// A character that stands for itself.
fn one(literal: char) -> Node {
    let is_any = |samples: &[&str]| samples.iter().any(|sample| sample.starts_with(literal));
    Node::One { letter: is_any(&LETTERS), gap: is_any(&GAPS) }
}
