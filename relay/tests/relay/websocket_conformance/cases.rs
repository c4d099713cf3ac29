//! What is sent, and what must come of it.
use super::wire::{Close, Message, close, frame, unmasked, with_key, with_length};

const FIN: u8 = 0x80;
const MORE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const GO_ON: u8 = 0;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 0xa;
const CLOSE: u8 = FIN | 8;

/// One case.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Payloads of the pings that the relay reads.
    pub(super) pings: Vec<Vec<u8>>,
    pub(super) expected: Expected,
}

/// What must come of it.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    /// The other side gets these messages and this Close.
    Passes { messages: Vec<Message>, close: Close },
    /// Who sent it is told this code; the other side gets at most what came before.
    Refused { code: u16, before: Vec<Message> },
}

/// Puts cases together.
struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: impl Into<String>, bytes: Vec<u8>, pings: &[&[u8]], expected: Expected) {
        let pings = pings.iter().map(|ping| ping.to_vec()).collect();
        self.0.push(Case { name: name.into(), bytes, pings, expected });
    }

    /// Passes, and is followed by a usual Close.
    fn passes(&mut self, name: impl Into<String>, frames: &[Vec<u8>], pings: &[&[u8]], messages: Vec<Message>) {
        let bytes = [frames.concat(), close(Some((1000, b"")))].concat();
        self.add(name, bytes, pings, Expected::Passes { messages, close: Close(Some(1000), Vec::new()) });
    }

    /// Is refused. More follows, which nobody must act upon.
    fn refused(&mut self, name: impl Into<String>, code: u16, good: &[(u8, &[u8])], bad: Vec<u8>) {
        let frames: Vec<u8> = good.iter().flat_map(|(opcode, payload)| frame(FIN | opcode, payload)).collect();
        let before = good.iter().map(|(opcode, payload)| (*opcode == TEXT, payload.to_vec())).collect();
        let bytes = [frames, bad, frame(FIN | TEXT, b"too late")].concat();
        self.add(name, bytes, &[], Expected::Refused { code, before });
    }

    /// Ends with this Close, which passes.
    fn closes(&mut self, name: impl Into<String>, frames: &[Vec<u8>], messages: Vec<Message>, close: Close) {
        self.add(name, frames.concat(), &[], Expected::Passes { messages, close });
    }
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + (at % 26) as u8).collect()
}

/// Every case.
pub(super) fn all() -> Vec<Case> {
    let mut table = Table(Vec::new());
    sizes(&mut table);
    control_frames(&mut table);
    headers(&mut table);
    masks(&mut table);
    fragments(&mut table);
    text(&mut table);
    closing(&mut table);
    close_codes(&mut table);
    table.0
}

fn sizes(table: &mut Table) {
    for size in [0, 1, 124, 125, 126, 127, 128, 4095, 4096, 65_535, 65_536, 65_537, 200_000, 1 << 20, 5 << 20] {
        for opcode in [TEXT, BINARY] {
            let sent = payload(size);
            let name = format!("a message of {size} bytes, opcode {opcode}");
            table.passes(name, &[frame(FIN | opcode, &sent)], &[], vec![(opcode == TEXT, sent)]);
        }
    }
    let many: Vec<Vec<u8>> = (1..500).map(|size| payload(size * 7 % 300 + 1)).collect();
    let frames: Vec<Vec<u8>> = many.iter().map(|sent| frame(FIN | BINARY, sent)).collect();
    table.passes("many small messages", &frames, &[], many.into_iter().map(|sent| (false, sent)).collect());
}

fn control_frames(table: &mut Table) {
    let all_bytes: Vec<u8> = (0..125).map(|at| at * 2 + 1).collect();
    for ping in [&b""[..], b"hello", &all_bytes, &[0xff; 125], &[0; 1]] {
        table.passes(format!("a ping of {} bytes", ping.len()), &[frame(PING, ping)], &[ping], Vec::new());
    }
    for size in [126, 127, 1000, 65_536] {
        for (name, first) in [("ping", PING), ("pong", PONG), ("close", CLOSE)] {
            table.refused(format!("a {name} of {size} bytes"), 1002, &[], frame(first, &payload(size)));
        }
    }
    table.passes("a pong that nobody asked for", &[frame(PONG, b"")], &[], Vec::new());
    let frames = [frame(PONG, b"unasked"), frame(PING, b"asked"), frame(PONG, &[9; 125])];
    table.passes("pongs around a ping", &frames, &[b"asked"], Vec::new());
    let pings: Vec<[u8; 1]> = (0..10).map(|at| [at]).collect();
    let frames: Vec<Vec<u8>> = pings.iter().map(|ping| frame(PING, ping)).collect();
    table.passes("ten pings", &frames, &pings.iter().map(|ping| &ping[..]).collect::<Vec<_>>(), Vec::new());
    for (name, first) in [("ping", 9), ("pong", 0xa), ("close", 8)] {
        let parts = [frame(MORE | first, b"\x03\xe8"), frame(FIN | GO_ON, b"")].concat();
        table.refused(format!("a {name} in parts"), 1002, &[(TEXT, b"before")], parts);
    }
}

fn headers(table: &mut Table) {
    for bits in 1..8_u8 {
        let rsv = bits << 4;
        for (name, first) in [("text", FIN | TEXT), ("ping", PING), ("close", CLOSE), ("the first part", MORE | BINARY)]
        {
            let name = format!("reserved bits {bits:03b} in {name}");
            table.refused(name, 1002, &[(TEXT, b"before")], frame(first | rsv, b"\x03\xe8"));
        }
    }
    let second = [frame(MORE | TEXT, b"one"), frame(FIN | GO_ON | 0x40, b"two")].concat();
    table.refused("reserved bits in a later part", 1002, &[], second);
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        table.refused(format!("opcode {opcode:x}"), 1002, &[], frame(FIN | opcode, b""));
        let name = format!("opcode {opcode:x} with payload behind a message");
        table.refused(name, 1002, &[(BINARY, b"before"), (TEXT, b"too")], frame(FIN | opcode, b"payload"));
    }
    let inside = [frame(MORE | TEXT, b"one"), frame(FIN | 3, b""), frame(FIN | GO_ON, b"two")].concat();
    table.refused("an unknown opcode inside a message", 1002, &[], inside);
    for (name, code, length) in [
        ("125 in two bytes", 1002, &[0x80 | 126, 0, 125][..]),
        ("0 in two bytes", 1002, &[0x80 | 126, 0, 0]),
        ("65,535 in eight bytes", 1002, &[0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ("1 in eight bytes", 1002, &[0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("2^63", 1009, &[0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ("2^64-1", 1009, &[0x80 | 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ] {
        table.refused(format!("the length {name}"), code, &[], with_length(FIN | BINARY, length, &[7; 125]));
    }
}

fn masks(table: &mut Table) {
    for (name, first) in [("text", FIN | TEXT), ("binary", FIN | BINARY), ("ping", PING), ("close", CLOSE)] {
        table.refused(format!("{name} without a mask"), 1002, &[(TEXT, b"before")], unmasked(first, b"\x03\xe8"));
    }
    table.refused("nothing without a mask", 1002, &[], unmasked(FIN | BINARY, b""));
    let later = [frame(MORE | BINARY, b"one"), unmasked(FIN | GO_ON, b"two")].concat();
    table.refused("a later part without a mask", 1002, &[], later);
    for key in [[0; 4], [0xff; 4], [0, 0, 0, 1], [0x80, 0, 0, 0], [1, 2, 3, 4]] {
        for size in [1, 3, 4, 5, 63, 64, 65, 10_001] {
            let (sent, name) = (payload(size), format!("{size} bytes under the key {key:?}"));
            table.passes(name, &[with_key(FIN | BINARY, &sent, key)], &[], vec![(false, sent)]);
        }
    }
}

fn fragments(table: &mut Table) {
    for opcode in [TEXT, BINARY] {
        for (name, parts) in [
            ("two", &[&b"one "[..], b"two"][..]),
            ("three", &[b"one ", b"two ", b"three"]),
            ("an empty first and a", &[b"", b"rest"]),
            ("an empty last and a", &[b"all", b""]),
            ("an empty middle and two", &[b"one ", b"", b"two"]),
            ("three empty", &[b"", b"", b""]),
        ] {
            let whole = vec![(opcode == TEXT, parts.concat())];
            let split = split(opcode, parts);
            table.passes(format!("{name} part(s), opcode {opcode}"), &split, &[], whole.clone());
            // Control frames fit between any two.
            let pings: Vec<[u8; 2]> = (0..parts.len()).map(|at| [b'p', at as u8]).collect();
            let mixed: Vec<Vec<u8>> =
                pings.iter().zip(split).flat_map(|(ping, part)| [frame(PING, ping), frame(PONG, b""), part]).collect();
            let pings: Vec<&[u8]> = pings.iter().map(|ping| &ping[..]).collect();
            table.passes(format!("{name} part(s) behind pings, opcode {opcode}"), &mixed, &pings, whole);
        }
    }
    for size in [1, 125, 126, 1300, 65_535, 65_536] {
        let whole = payload(if size < 126 { 5000 } else { 300_000 });
        let parts: Vec<&[u8]> = whole.chunks(size).collect();
        table.passes(format!("parts of {size} bytes"), &split(BINARY, &parts), &[], vec![(false, whole.clone())]);
    }
    let stray = frame(FIN | GO_ON, b"stray");
    table.refused("a continuation of nothing", 1002, &[], stray.clone());
    table.refused("a continuation of nothing that goes on", 1002, &[], frame(MORE | GO_ON, b"stray"));
    table.refused("a continuation behind a whole message", 1002, &[(TEXT, b"before")], stray.clone());
    let behind = [split(TEXT, &[b"one", b"two"]).concat(), stray].concat();
    let expected = Expected::Refused { code: 1002, before: vec![(true, b"onetwo".to_vec())] };
    table.add("a continuation behind a message in parts", behind, &[], expected);
    for (name, first) in [("text", FIN | TEXT), ("binary", FIN | BINARY), ("the first part of another", MORE | TEXT)] {
        let inside = [frame(MORE | TEXT, b"one"), frame(first, b"other"), frame(FIN | GO_ON, b"two")].concat();
        table.refused(format!("{name} inside a message"), 1002, &[], inside);
    }
    let two: Vec<Vec<u8>> = [split(TEXT, &[b"one", b"two"]), split(BINARY, &[b"three", b"four"])].concat();
    table.passes("two messages in parts", &two, &[], vec![(true, b"onetwo".into()), (false, b"threefour".into())]);
}

/// A message in these parts.
fn split(opcode: u8, parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = parts.len() - 1;
    let first = |at| if at == 0 { opcode } else { GO_ON } | if at == last { FIN } else { MORE };
    parts.iter().enumerate().map(|(at, part)| frame(first(at), part)).collect()
}

/// Text is not looked into: what is valid arrives as text, and what is not arrives as it was.
fn text(table: &mut Table) {
    let valid = "\u{0}κόσμε \u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff} 😀".as_bytes();
    table.passes("text beyond ASCII", &[frame(FIN | TEXT, valid)], &[], vec![(true, valid.to_vec())]);
    let bytes: Vec<&[u8]> = valid.chunks(1).collect();
    table.passes("text cut inside its characters", &split(TEXT, &bytes), &[], vec![(true, valid.to_vec())]);
    for (name, invalid) in [
        ("a continuation byte", &b"\x80"[..]),
        ("a cut character", b"\xce\xba\xe1\xbd"),
        ("an overlong slash", b"\xc0\xaf"),
        ("an overlong NUL", b"\xe0\x80\x80"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("beyond the last plane", b"\xf4\x90\x80\x80"),
        ("five bytes", b"\xf8\x88\x80\x80\x80"),
        ("impossible bytes", b"\xfe\xff"),
    ] {
        let whole = [b"good ", invalid, b" good"].concat();
        let frames = [frame(FIN | TEXT, &whole)];
        table.passes(format!("text with {name}"), &frames, &[], vec![(true, whole.clone())]);
        let parts = split(TEXT, &[b"good ", invalid, b" good"]);
        table.passes(format!("text in parts with {name}"), &parts, &[], vec![(true, whole)]);
    }
}

fn closing(table: &mut Table) {
    let usual = || Close(Some(1000), Vec::new());
    let end = || close(Some((1000, b"")));
    let before = || vec![(true, b"before".to_vec())];
    let message = || frame(FIN | TEXT, b"before");
    table.closes("nothing but a close", &[end()], Vec::new(), usual());
    table.closes("a close behind a message", &[message(), end()], before(), usual());
    table.closes("two closes", &[message(), end(), close(Some((1001, b"again")))], before(), usual());
    table.closes("a ping behind the close", &[end(), frame(PING, b"late")], Vec::new(), usual());
    table.closes("a message behind the close", &[end(), message()], Vec::new(), usual());
    table.closes("rubbish behind the close", &[end(), vec![0xff; 500]], Vec::new(), usual());
    table.closes("a close inside a message", &[frame(MORE | TEXT, b"never whole"), end()], Vec::new(), usual());
    let rest = [frame(MORE | TEXT, b"never whole"), end(), frame(FIN | GO_ON, b"late")];
    table.closes("the rest of a message behind the close", &rest, Vec::new(), usual());
    let large = payload(256 * 1024);
    let frames = [frame(FIN | BINARY, &large), end(), frame(PING, b"late")];
    table.closes("a close behind a large message", &frames, vec![(false, large)], usual());
    table.closes("a close without a code", &[close(None)], Vec::new(), Close(None, Vec::new()));
    table.refused("a close with half a code", 1002, &[], frame(CLOSE, &[3]));
    for reason in ["why".to_owned(), "grüße 😀".to_owned(), "x".repeat(123)] {
        let frames = [close(Some((1000, reason.as_bytes())))];
        let name = format!("a reason of {} bytes", reason.len());
        table.closes(name, &frames, Vec::new(), Close(Some(1000), reason.into_bytes()));
    }
    table.refused("a reason of 124 bytes", 1002, &[], close(Some((1000, &[b'x'; 124]))));
    for (name, reason) in
        [("a cut character", &b"\xe1\xbd"[..]), ("a surrogate", b"\xed\xa0\x80"), ("0xff", b"why\xff")]
    {
        table.refused(format!("a reason with {name}"), 1007, &[], close(Some((1000, reason))));
    }
}

/// Section 7.4 of the RFC, and the codes registered with IANA since.
fn close_codes(table: &mut Table) {
    let registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
    for code in registered.into_iter().chain([3000, 3001, 3999, 4000, 4001, 4321, 4999]) {
        let frames = [close(Some((code, b"kept")))];
        table.closes(format!("code {code}"), &frames, Vec::new(), Close(Some(code), b"kept".to_vec()));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1017, 1100, 1999, 2000, 2999, 5000, 5001, 65_535] {
        table.refused(format!("code {code}"), 1002, &[(TEXT, b"before")], close(Some((code, b"refused"))));
    }
}
