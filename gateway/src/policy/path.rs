//! Paths: the patterns that grant them, and the test for paths that two servers could read differently. Such a path is
//! refused, never normalised: what we judge is what we forward (SD-5).

use std::{fmt, str::FromStr};

/// A path pattern of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// The segments; `None` is `*`.
    segments: Vec<Option<String>>,
    /// A trailing `**`: anything beneath, the bare `/` at its place included.
    open: bool,
}

/// Why a text is no path pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// It does not begin with `/`.
    #[error("a path pattern begins with `/`")]
    Relative,
    /// It has a query.
    #[error("a path pattern has no query: queries are not judged")]
    Query,
    /// `**` somewhere else than last.
    #[error("`**` stands only at the end, as in `/v1/**`")]
    OpenInside,
    /// `a*` and their kin.
    #[error("`*` stands for a whole segment; there are no partial wildcards")]
    Partial,
    /// The pattern itself is ambiguous.
    #[error("the pattern holds what is refused in paths: {0}")]
    Ambiguous(#[from] Ambiguity),
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        let rest = text.strip_prefix('/').ok_or(PathPatternError::Relative)?;
        if text.contains(['?', '#']) {
            return Err(PathPatternError::Query);
        }
        check(text)?;
        let mut segments = Vec::new();
        let mut open = false;
        for segment in rest.split('/') {
            if open {
                return Err(PathPatternError::OpenInside);
            }
            match segment {
                "**" => open = true,
                "*" => segments.push(None),
                partial if partial.contains('*') => return Err(PathPatternError::Partial),
                literal => segments.push(Some(literal.to_owned())),
            }
        }
        Ok(Self { segments, open })
    }
}

impl PathPattern {
    /// Whether this is `/**`, which limits nothing.
    pub fn is_unlimited(&self) -> bool {
        self.open && self.segments.is_empty()
    }

    /// Whether a path (without query, not ambiguous) is granted. `/v1/**` grants `/v1/` and all beneath, not `/v1`.
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut asked = rest.split('/');
        let fixed = self.segments.iter().all(|granted| match (granted, asked.next()) {
            (Some(granted), Some(asked)) => granted == asked,
            (None, Some(asked)) => !asked.is_empty(),
            (_, None) => false,
        });
        fixed && asked.next().is_some() == self.open
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            write!(f, "/{}", segment.as_deref().unwrap_or("*"))?;
        }
        if self.open { f.write_str("/**") } else { Ok(()) }
    }
}

/// What makes a path ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguity {
    /// `.` or `..` as a segment, plain or percent-encoded.
    #[error("a dot segment")]
    DotSegment,
    /// `//`.
    #[error("an empty segment")]
    EmptySegment,
    /// `\`.
    #[error("a backslash")]
    Backslash,
    /// `%2f`, `%5c`, `%25`, `%00` or another control character.
    #[error("an encoded slash, backslash, percent sign or control character")]
    EncodedDelimiter,
    /// `%` without two hexadecimal digits.
    #[error("a broken percent escape")]
    BrokenEscape,
    /// `;`, which some servers cut off.
    #[error("a `;` parameter")]
    Parameter,
    /// A byte outside of ASCII, plain or percent-encoded: servers disagree on overlong and composed forms.
    #[error("a character outside of ASCII")]
    NotAscii,
}

/// Finds what makes a path (without query) ambiguous.
///
/// # Errors
/// The first ambiguity, segment by segment.
pub fn check(path: &str) -> Result<(), Ambiguity> {
    let segments = path.strip_prefix('/').unwrap_or(path);
    let count = segments.split('/').count();
    for (index, segment) in segments.split('/').enumerate() {
        if segment.is_empty() && index + 1 < count {
            return Err(Ambiguity::EmptySegment);
        }
        check_segment(segment)?;
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), Ambiguity> {
    let mut dots = 0_usize;
    let mut others = false;
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'.' => dots += 1,
            b'\\' => return Err(Ambiguity::Backslash),
            b';' => return Err(Ambiguity::Parameter),
            b'%' => match (bytes.next().and_then(hexadecimal), bytes.next().and_then(hexadecimal)) {
                (Some(high), Some(low)) => match high << 4 | low {
                    b'.' => dots += 1,
                    b'/' | b'\\' | b'%' | 0..=0x1f | 0x7f => return Err(Ambiguity::EncodedDelimiter),
                    0x80.. => return Err(Ambiguity::NotAscii),
                    b';' => return Err(Ambiguity::Parameter),
                    _ => others = true,
                },
                _ => return Err(Ambiguity::BrokenEscape),
            },
            0x80.. => return Err(Ambiguity::NotAscii),
            _ => others = true,
        }
    }
    if !others && (dots == 1 || dots == 2) { Err(Ambiguity::DotSegment) } else { Ok(()) }
}

fn hexadecimal(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
