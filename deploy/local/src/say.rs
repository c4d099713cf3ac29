//! What this program prints: results on standard output, failures on standard error.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "talking to the person at the terminal is its purpose")]

use std::time::Duration;

/// A heading.
pub(crate) fn title(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}

/// One plain line.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// A step that worked, and how long it took.
pub(crate) fn done(what: &str, detail: &str, took: Duration) {
    println!("  ok  {what:<24} {detail:<64} {:>9}", millis(took));
}

/// One hop of a request.
pub(crate) fn hop(who: &str, detail: &str) {
    println!("      {who:<10} {detail}");
}

/// The explanation of a failure: the cause chain, outermost first.
pub(crate) fn failed(error: &anyhow::Error) {
    eprintln!("failed: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}

/// A duration as people read it.
pub(crate) fn millis(took: Duration) -> String {
    let micros = took.as_micros();
    if micros < 10_000 { format!("{:.2} ms", micros as f64 / 1e3) } else { format!("{:.0} ms", micros as f64 / 1e3) }
}
