//! QR codes (ISO/IEC 18004): bytes, correction level M, versions 1 to 10, which is up to 213 bytes: enough for a link.

/// Total of codewords is data and correction of all blocks: (correction codewords a block, blocks, data codewords of the shorter blocks,
/// how many blocks have one more), by version from 1.
const BLOCKS: [(usize, usize, usize, usize); 10] = [
    (10, 1, 16, 0),
    (16, 1, 28, 0),
    (26, 1, 44, 0),
    (18, 2, 32, 0),
    (24, 2, 43, 0),
    (16, 4, 27, 0),
    (18, 4, 31, 0),
    (22, 4, 38, 2),
    (22, 5, 36, 2),
    (26, 5, 43, 1),
];
/// The places of alignment patterns along an edge, by version from 1.
const ALIGNMENT: [&[usize]; 10] =
    [&[], &[6, 18], &[6, 22], &[6, 26], &[6, 30], &[6, 34], &[6, 22, 38], &[6, 24, 42], &[6, 26, 46], &[6, 28, 50]];
/// Light modules around the code.
const QUIET: usize = 4;

/// A code: its modules, dark or light, row by row.
pub struct Code {
    side: usize,
    dark: Vec<bool>,
    /// Modules that carry no data.
    fixed: Vec<bool>,
}

impl Code {
    /// The code of these bytes; `None` where they are too many.
    pub fn of(bytes: &[u8]) -> Option<Code> {
        let version = (1..=10).find(|version| bytes.len() <= capacity(*version))?;
        let words = interleaved(version, &data(version, bytes));
        let codes = (0..8).map(|mask| Code::drawn(version, &words, mask));
        codes.min_by_key(Code::penalty)
    }

    /// Width and height with the light margin.
    pub fn size(&self) -> usize {
        self.side + 2 * QUIET
    }

    /// The dark modules as an SVG path.
    pub fn path(&self) -> String {
        let squares = (0..self.side * self.side).filter(|at| self.dark[*at]);
        squares.map(|at| format!("M{} {}h1v1h-1z", at % self.side + QUIET, at / self.side + QUIET)).collect()
    }

    fn drawn(version: usize, words: &[u8], mask: usize) -> Code {
        let side = 17 + 4 * version;
        let mut code = Code { side, dark: vec![false; side * side], fixed: vec![false; side * side] };
        code.patterns(version);
        code.format(mask);
        code.data(words, mask);
        code
    }

    fn put(&mut self, x: usize, y: usize, dark: bool) {
        let at = y * self.side + x;
        self.dark[at] = dark;
        self.fixed[at] = true;
    }

    /// Finders with their margins, timing, alignment, version.
    fn patterns(&mut self, version: usize) {
        let side = self.side;
        for n in 0..side {
            self.put(6, n, n % 2 == 0);
            self.put(n, 6, n % 2 == 0);
        }
        for (left, top) in [(0, 0), (side - 7, 0), (0, side - 7)] {
            for y in top.saturating_sub(1)..(top + 8).min(side) {
                for x in left.saturating_sub(1)..(left + 8).min(side) {
                    let ring = (x.abs_diff(left + 3)).max(y.abs_diff(top + 3));
                    self.put(x, y, ring != 2 && ring != 4);
                }
            }
        }
        let places = ALIGNMENT[version - 1];
        let last = places.last().copied().unwrap_or(0);
        for x in places {
            for y in places {
                if matches!((*x, *y), (6, 6)) || (*x, *y) == (6, last) || (*x, *y) == (last, 6) {
                    continue;
                }
                for dy in 0..5_usize {
                    for dx in 0..5_usize {
                        self.put(x + dx - 2, y + dy - 2, dx.abs_diff(2).max(dy.abs_diff(2)) != 1);
                    }
                }
            }
        }
        if version >= 7 {
            let bits = with_remainder(version, 12, 0x1f25);
            for n in 0..18 {
                let dark = bits >> n & 1 == 1;
                self.put(side - 11 + n % 3, n / 3, dark);
                self.put(n / 3, side - 11 + n % 3, dark);
            }
        }
    }

    /// Level M and the mask, twice, with their correction.
    fn format(&mut self, mask: usize) {
        let side = self.side;
        let bits = with_remainder(mask, 10, 0x537) ^ 0x5412;
        for n in 0..15 {
            let dark = bits >> n & 1 == 1;
            let (x, y) = match n {
                0..=5 => (8, n),
                6 => (8, 7),
                7 => (8, 8),
                8 => (7, 8),
                _ => (14 - n, 8),
            };
            self.put(x, y, dark);
            if n < 8 { self.put(side - 1 - n, 8, dark) } else { self.put(8, side - 15 + n, dark) }
        }
        self.put(8, side - 8, true);
    }

    /// The words in two-module columns from the lower right, up and down in turn.
    fn data(&mut self, words: &[u8], mask: usize) {
        let side = self.side;
        let mut bit = 0;
        let columns = (0..side).rev().filter(|x| *x != 6).collect::<Vec<_>>();
        for (n, pair) in columns.chunks(2).enumerate() {
            for step in 0..side {
                let y = if n % 2 == 0 { side - 1 - step } else { step };
                for x in pair {
                    let at = y * side + x;
                    if self.fixed[at] {
                        continue;
                    }
                    let dark = words.get(bit / 8).is_some_and(|word| word >> (7 - bit % 8) & 1 == 1);
                    self.dark[at] = dark ^ masked(mask, *x, y);
                    bit += 1;
                }
            }
        }
    }

    /// How badly it reads: runs of one colour, blocks of one colour, and too much of one.
    fn penalty(&self) -> usize {
        let side = self.side;
        let is_dark = |x: usize, y: usize| self.dark[y * side + x];
        let mut sum = 0;
        for line in 0..side {
            for across in [true, false] {
                let mut run = 1;
                for n in 1..=side {
                    let at = |n: usize| if across { is_dark(n, line) } else { is_dark(line, n) };
                    if n < side && at(n) == at(n - 1) {
                        run += 1;
                    } else {
                        sum += if run >= 5 { run - 2 } else { 0 };
                        run = 1;
                    }
                }
            }
        }
        for y in 1..side {
            for x in 1..side {
                let one = is_dark(x, y);
                sum += if one == is_dark(x - 1, y) && one == is_dark(x, y - 1) && one == is_dark(x - 1, y - 1) { 3 } else { 0 };
            }
        }
        let dark = self.dark.iter().filter(|dark| **dark).count();
        sum + (dark * 20).abs_diff(side * side * 10) / (side * side) * 10
    }
}

fn masked(mask: usize, x: usize, y: usize) -> bool {
    match mask {
        0 => (x + y).is_multiple_of(2),
        1 => y.is_multiple_of(2),
        2 => x.is_multiple_of(3),
        3 => (x + y).is_multiple_of(3),
        4 => (y / 2 + x / 3).is_multiple_of(2),
        5 => (x * y).is_multiple_of(6),
        6 => ((x * y) % 2 + (x * y) % 3).is_multiple_of(2),
        _ => ((x + y) % 2 + (x * y) % 3).is_multiple_of(2),
    }
}

/// A number followed by the remainder of its division by a generator of this degree.
fn with_remainder(number: usize, degree: usize, generator: usize) -> usize {
    let mut rest = number << degree;
    while let Some(top) = rest.checked_ilog2().map(|top| top as usize).filter(|top| *top >= degree) {
        rest ^= generator << (top - degree);
    }
    number << degree | rest
}

fn data_words(version: usize) -> usize {
    let (_, blocks, short, longer) = BLOCKS[version - 1];
    blocks * short + longer
}

/// Bytes that a version holds: four bits say the kind, eight or sixteen the length.
fn capacity(version: usize) -> usize {
    data_words(version) - if version < 10 { 2 } else { 3 }
}

/// The data words: kind, length, bytes, end, padding.
fn data(version: usize, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    let mut nibbles: Vec<u8> = vec![4];
    let digits: &[u32] = if version < 10 { &[4, 0] } else { &[12, 8, 4, 0] };
    nibbles.extend(digits.iter().map(|shift| u8::try_from(length >> shift & 0xf).unwrap_or(0)));
    nibbles.extend(bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]));
    nibbles.push(0);
    let mut words: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect();
    let padding = [0xec, 0x11].into_iter().cycle();
    words.extend(padding.take(data_words(version) - words.len()));
    words
}

/// The words of all blocks in turn, then their corrections in turn.
fn interleaved(version: usize, data: &[u8]) -> Vec<u8> {
    let (correction, blocks, short, longer) = BLOCKS[version - 1];
    let mut rest = data;
    let mut parts = Vec::with_capacity(blocks);
    for n in 0..blocks {
        let (part, after) = rest.split_at(short + usize::from(n >= blocks - longer));
        parts.push((part, remainder(part, correction)));
        rest = after;
    }
    let mut words: Vec<u8> = (0..=short).flat_map(|n| parts.iter().filter_map(move |(part, _)| part.get(n).copied())).collect();
    words.extend((0..correction).flat_map(|n| parts.iter().map(move |(_, part)| part[n])));
    words
}

/// The Reed-Solomon correction of a block.
fn remainder(data: &[u8], degree: usize) -> Vec<u8> {
    let mut generator = vec![0; degree];
    generator[degree - 1] = 1;
    let mut root = 1;
    for _ in 0..degree {
        for n in 0..degree {
            generator[n] = product(generator[n], root) ^ generator.get(n + 1).copied().unwrap_or(0);
        }
        root = product(root, 2);
    }
    let mut rest = vec![0; degree];
    for byte in data {
        let factor = byte ^ rest.remove(0);
        rest.push(0);
        for (word, coefficient) in rest.iter_mut().zip(&generator) {
            *word ^= product(*coefficient, factor);
        }
    }
    rest
}

/// In the field of 256 elements with the polynomial 0x11d.
fn product(a: u8, b: u8) -> u8 {
    let mut sum: u16 = 0;
    for n in (0..8).rev() {
        sum = (sum << 1) ^ ((sum >> 7) * 0x11d);
        sum ^= u16::from(b >> n & 1) * u16::from(a);
    }
    u8::try_from(sum & 0xff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, mask: usize) -> String {
        let version = (1..=10).find(|version| text.len() <= capacity(*version)).unwrap();
        let code = Code::drawn(version, &interleaved(version, &data(version, text.as_bytes())), mask);
        code.dark.chunks(code.side).map(|row| row.iter().map(|dark| if *dark { '#' } else { '.' }).collect::<String>() + "\n").collect()
    }

    #[test]
    fn codes_are_those_of_another_implementation() {
        for (text, mask, expected) in [
            ("hello", 0, include_str!("qr_fixtures/hello_0.txt")),
            ("https://mdm.example.org/enroll/mdt_0123456789", 3, include_str!("qr_fixtures/link_3.txt")),
            (&"https://mdm.example.org/enroll/".repeat(4), 5, include_str!("qr_fixtures/long_5.txt")),
            (&"x".repeat(213), 7, include_str!("qr_fixtures/full_7.txt")),
        ] {
            assert_eq!(shown(text, mask), expected, "{text}");
        }
        assert!(Code::of(&[0; 214]).is_none());
        let code = Code::of(b"hello").unwrap();
        assert_eq!((code.size(), code.path().starts_with("M4 4h1v1h-1z")), (29, true));
    }
}
