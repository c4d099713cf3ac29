//! Holds the tables of `docs/` that say which test shows what to the tests: each statement has one row, and each test that
//! a row names, of these and of other tables of the page, is there.
use std::{collections::HashMap, fmt, path::Path};

/// How a row without a test begins its reason.
pub const WITHOUT: &str = "Not shown:";

/// One page with such a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The page, below the repository.
    pub page: &'static str,
    /// What its rows begin with, in order.
    pub rows: Vec<String>,
}

/// Every table.
pub fn tables() -> Vec<Table> {
    let numbers = |count: usize| (1..=count).map(|number| number.to_string()).collect();
    let threats = THREATS.iter().flat_map(|(boundary, rows)| rows.iter().map(move |row| format!("{boundary}-{row}")));
    vec![
        Table { page: "docs/hybrid-connections.md", rows: numbers(116) },
        Table { page: "docs/threats.md", rows: threats.collect() },
    ]
}

/// The threats at each boundary of a gateway, by the kind of harm and a number: spoofing, elevation, disclosure,
/// tampering, denial, repudiation.
const THREATS: &[(&str, &[&str])] = &[
    ("B1", &["S1", "S2", "E1", "I1", "T1", "D1"]),
    ("B45", &["S1", "E1", "S2", "S3", "S4", "S5", "I1", "R1", "E2", "D1", "D2"]),
    ("B6", &["E1", "E2", "E7", "E3", "E4", "E5", "E6", "S1", "T1", "I1", "S2", "D1"]),
    ("B12", &["E1", "D1", "R1", "I1"]),
];

/// What is wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// This row stands where another is due.
    Order(String, String),
    /// This row and those behind it are missing.
    Missing(String),
    /// A row names neither a test nor a reason.
    Unproven(String),
    /// A row names a test that is not in that file.
    NoSuchTest(String, String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(found, due) => write!(f, "row {found} stands where row {due} is due"),
            Self::Missing(from) => write!(f, "rows from {from} on are missing"),
            Self::Unproven(row) => write!(f, "row {row} names no test, and no reason (\"{WITHOUT} …\")"),
            Self::NoSuchTest(row, test) => write!(f, "row {row}: there is no test {test}"),
        }
    }
}

/// Checks every table below `root`; each problem with its page in front.
pub fn check_all(root: &Path) -> Vec<String> {
    let checked = tables().into_iter().flat_map(|table| {
        let text = std::fs::read_to_string(root.join(table.page)).unwrap_or_default();
        let problems = table.check(&text, root);
        problems.into_iter().map(move |problem| format!("{}: {problem}", table.page))
    });
    checked.collect()
}

impl Table {
    /// Checks the table in `text`; files are looked for below `root`.
    pub fn check(&self, text: &str, root: &Path) -> Vec<Problem> {
        let (mut problems, mut sources) = (Vec::new(), HashMap::new());
        let mut due = self.rows.iter();
        for (row, proof) in rows(text) {
            let quoted = proof.split('`').skip(1).step_by(2);
            let tests: Vec<&str> = quoted.filter(|quoted| quoted.contains(".rs::")).collect();
            // Other tables have other words where this one has its numbers.
            if self.is_statement(row) {
                match due.next() {
                    Some(name) if name == row => {}
                    other => {
                        let name = other.map_or("none", String::as_str);
                        problems.push(Problem::Order(row.to_owned(), name.to_owned()));
                    }
                }
                if tests.is_empty() && !proof.contains(WITHOUT) {
                    problems.push(Problem::Unproven(row.to_owned()));
                }
            }
            for test in tests {
                let (file, name) = test.split_once("::").unwrap_or((test, ""));
                let source = sources
                    .entry(file.to_owned())
                    .or_insert_with(|| std::fs::read_to_string(root.join(file)).unwrap_or_default());
                if !has_test(source, name) {
                    problems.push(Problem::NoSuchTest(row.to_owned(), test.to_owned()));
                }
            }
        }
        problems.extend(due.next().map(|name| Problem::Missing(name.clone())));
        problems
    }

    /// Whether a row's first cell is a statement's: made like those of the table, whether it is one of them or not.
    fn is_statement(&self, row: &str) -> bool {
        let numbered = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let named = |text: &str| {
            let parts = text.strip_prefix('B').and_then(|rest| rest.split_once('-'));
            parts.is_some_and(|(boundary, threat)| numbered(boundary) && threat.get(1..).is_some_and(numbered))
        };
        if self.rows.iter().all(|name| numbered(name)) { numbered(row) } else { named(row) }
    }
}

/// First and last cell of each row.
fn rows(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split('|');
        Some((cells.next()?.trim(), cells.next_back()?))
    })
}

/// Whether a function of this name has a test attribute above it.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        let is_named = line.strip_prefix("async ").unwrap_or(line).starts_with(&head);
        let mut above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        is_named && above.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "#[tokio::test(flavor = \"x\")]\nasync fn a_test() {}\n\nfn helper() {}\n    #[test]\n    fn other() {}\n";

    fn table(rows: &[&str]) -> Vec<Problem> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.rs"), SOURCE).unwrap();
        let text = format!("| | Statement | Shown by |\n|---|---|---|\n{}\n", rows.join("\n"));
        let count =
            rows.iter().filter(|row| row.starts_with("| 1") || row.starts_with("| 2") || row.is_empty()).count();
        Table { page: "page", rows: (1..=count).map(|number| number.to_string()).collect() }.check(&text, folder.path())
    }

    #[test]
    fn rows_with_tests_or_reasons_pass() {
        let rows = ["| 1 | One | `t.rs::a_test`, `t.rs::other` |", "| 2 | Two, with `a` | Not shown: nobody can. |"];
        assert_eq!(table(&rows), []);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (one, two) = ("1".to_owned(), "2".to_owned());
        assert_eq!(table(&["| 2 | Two | Not shown: x |"]), [Problem::Order(two, one.clone())]);
        assert_eq!(table(&["| 1 | One | surely |"]), [Problem::Unproven(one.clone())]);
        for test in ["t.rs::helper", "t.rs::a_tes", "u.rs::a_test"] {
            let row = format!("| 1 | One | `{test}` |");
            assert_eq!(table(&[&row]), [Problem::NoSuchTest(one.clone(), test.to_owned())]);
            let row = format!("| a limit | 7 | `{test}` |");
            assert_eq!(table(&[&row]), [Problem::NoSuchTest("a limit".to_owned(), test.to_owned())]);
        }
        assert_eq!(table(&[""]), [Problem::Missing(one)]);
    }

    #[test]
    fn threats_are_told_from_other_words() {
        let table = Table { page: "page", rows: vec!["B1-S1".to_owned()] };
        for (row, is) in
            [("B1-S1", true), ("B45-D2", true), ("Brotli-1", false), ("7", false), ("", false), ("---", false)]
        {
            assert_eq!(table.is_statement(row), is, "{row}");
        }
    }

    #[test]
    fn the_pages_name_only_tests_that_are_there() {
        let problems = check_all(&crate::programs::repository());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
