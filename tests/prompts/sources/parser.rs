//! Parses counts: a = true
use std::collections::HashMap as Map;

/// The "limit" = 1.
const LIMIT: u32 = 0xFF_u32;
static NAME: &'static str = "na\"me";

#[derive(Debug, Clone)]
#[path = "x.rs"]
pub enum Kind<'a, T: Into<f64> + Copy = u8> {
    Small = 0b11,
    Pair(Vec<Vec<T>>, &'a str),
}

impl<'a, T> Parser<'a, T>
where
    T: Iterator<Item = char>,
{
    pub fn count(&mut self, text: &'a str) -> Option<usize> {
        let mut n = 1_000usize;
        let (first, rest) = (self.pair.0, -2.5e3);
        'outer: for c in text.chars().rev() {
            if c == 'x' && !self.done || n <= 3 {
                n += *self.map.get(&c)? as usize;
                break 'outer;
            }
        }
        if let Some(k) = self.next && k > 4 {
            n = n << 2 & k;
        }
        match first {
            -1 | 0..=9 => println!("{} {:?}", n + 1, r#"raw "text""#),
            _ => return None,
        }
        let f = |a: i32, b| a % b;
        type Alias = Map<u8, bool>;
        Some(f(n, b"bytes".len()) != 5).then(|| Self { n, ok: true, ..false })
    }
}
