//! SentencePiece's `precompiled_charsmap`: a trie from bytes to places in a string of replacements.
//!
//! The crate that reads it indexes both without a check, so everything that it can reach is
//! checked here: SentencePiece's own (T5, XLM-R) consist of whole blocks of 256 units, and their
//! replacements end with a zero byte.

use std::collections::VecDeque;

/// The most characters of base64. SentencePiece's largest has half a million.
const LONGEST: usize = 4 << 20;

/// How many times longer than its key a replacement may be; that of U+FDFA is 11 times as long.
const MOST_GROWTH: usize = 16;

/// Checks a map, and gives the factor by which it makes a text longer at most.
///
/// # Errors
///
/// What is wrong.
pub(super) fn check(encoded: &str) -> Result<usize, String> {
    if encoded.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} characters"));
    }
    let bytes = from_base64(encoded).ok_or("it is not base64")?;
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or("it is empty")?;
    let units = u32::from_le_bytes(*size) as usize / 4;
    let (trie, strings) = rest.split_at_checked(units * 4).ok_or("its trie is cut off")?;
    let strings = str::from_utf8(strings).map_err(|_| "its replacements are not UTF-8")?;
    let (trie, _) = trie.as_chunks::<4>();
    let trie: Vec<usize> = trie.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect();
    walk(&trie, strings)
}

/// Goes to every place of the trie that a text can lead to.
fn walk(trie: &[usize], strings: &str) -> Result<usize, String> {
    let root = trie.first().ok_or("its trie is empty")?;
    let mut growth = 1;
    let mut seen = vec![false; trie.len()];
    // Shortest keys first, so that each replacement is compared with its shortest key.
    let mut open = VecDeque::from([(block(trie, offset(*root))?, 1)]);
    while let Some((node, key)) = open.pop_front() {
        for byte in 1..=0xff {
            let place = node ^ byte;
            let unit = trie[place];
            let label = unit & ((1 << 31) | 0xff);
            if label != byte || std::mem::replace(&mut seen[place], true) {
                continue;
            }
            let child = block(trie, place ^ offset(unit))?;
            if (unit >> 8) & 1 == 1 {
                let start = trie[child] & ((1 << 31) - 1);
                growth = growth.max(replacement(strings, start, key)?);
            }
            open.push_back((child, key + 1));
        }
    }
    Ok(growth)
}

fn offset(unit: usize) -> usize {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

/// A place whose neighbors for all bytes are in the trie.
fn block(trie: &[usize], place: usize) -> Result<usize, String> {
    if place | 0xff < trie.len() { Ok(place) } else { Err("its trie points out of itself".into()) }
}

/// How many times longer than a key of so many bytes the replacement at `start` is.
fn replacement(strings: &str, start: usize, key: usize) -> Result<usize, String> {
    let text = strings.get(start..).ok_or("a replacement is outside of its text")?;
    let end = text.bytes().take(MOST_GROWTH * key + 1).position(|byte| byte == 0);
    Ok(end.ok_or("a replacement is too long")?.div_ceil(key))
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = ((bits << 6) | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie in which `a` becomes what begins at `start` of the strings, and those strings.
    fn map(units: usize, start: u32, strings: &str) -> String {
        let mut trie = vec![0_u32; units];
        trie[0] = 256 << 10;
        let place = 256 ^ usize::from(b'a');
        trie[place] = u32::from(b'a') | (1 << 8) | (((place ^ 512) as u32) << 10);
        if let Some(leaf) = trie.get_mut(512) {
            *leaf = start | (1 << 31);
        }
        let mut bytes = (trie.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(trie.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(strings.as_bytes());
        to_base64(&bytes)
    }

    fn to_base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for part in bytes.chunks(3) {
            let byte = |i: usize| u32::from(part.get(i).copied().unwrap_or(0));
            let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
            for i in 0..4 {
                let digit = char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]);
                text.push(if i <= part.len() { digit } else { '=' });
            }
        }
        text
    }

    #[test]
    fn base64_is_read() {
        for bytes in [&b""[..], b"f", b"fo", b"foo", b"foob", &[0, 255, 254, 3, 128]] {
            assert_eq!(from_base64(&to_base64(bytes)).as_deref(), Some(bytes));
        }
        for text in ["A", "AA=", "A===", "AA!A", "ä=="] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }

    #[test]
    fn sound_maps_pass() {
        assert_eq!(check(&map(768, 0, "bcd\0")), Ok(3));
        assert_eq!(check(&map(768, 3, "bcd\0")), Ok(1));
    }

    #[test]
    fn every_place_that_a_text_can_reach_is_checked() {
        for (map, problem) in [
            (map(512, 0, "b\0"), "out of itself"),
            (map(600, 0, "b\0"), "out of itself"),
            (map(768, 9, "b\0"), "outside of its text"),
            (map(768, 1, "é\0"), "outside of its text"),
            (map(768, 0, "no end"), "too long"),
            (map(768, 0, &format!("{}\0", "b".repeat(17))), "too long"),
            (to_base64(&u32::MAX.to_le_bytes()), "cut off"),
            (to_base64(&0_u32.to_le_bytes()), "trie is empty"),
            (String::new(), "it is empty"),
            ("?".into(), "not base64"),
        ] {
            let message = check(&map).unwrap_err();
            assert!(message.contains(problem), "{message} instead of {problem}");
        }
    }
}
