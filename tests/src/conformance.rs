//! Holds the tables of `docs/hybrid-connections.md` to the tests: each statement of the protocol has one row, and each test
//! that a row names, of these and of the limits, is there.
use std::{collections::HashMap, fmt, path::Path};

/// The page, below the repository.
pub const PAGE: &str = "docs/hybrid-connections.md";

/// How many statements there are, numbered from 1.
pub const STATEMENTS: usize = 116;

/// How a row without a test begins its reason.
pub const WITHOUT: &str = "Not shown:";

/// What is wrong with the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The rows are not numbered 1, 2, 3, …: this number came where another was due.
    Order(usize, usize),
    /// Fewer rows than statements.
    Missing(usize),
    /// A row names neither a test nor a reason.
    Unproven(usize),
    /// A row names a test that is not in that file.
    NoSuchTest(String, String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PAGE}: ")?;
        match self {
            Self::Order(found, due) => write!(f, "row {found} stands where row {due} is due"),
            Self::Missing(from) => write!(f, "rows {from} to {STATEMENTS} are missing"),
            Self::Unproven(row) => write!(f, "row {row} names no test, and no reason (\"{WITHOUT} …\")"),
            Self::NoSuchTest(row, test) => write!(f, "row {row}: there is no test {test}"),
        }
    }
}

/// Checks the table in `page`; files are looked for below `root`.
pub fn check(page: &str, root: &Path) -> Vec<Problem> {
    let (mut problems, mut due, mut sources) = (Vec::new(), 1, HashMap::new());
    for (row, proof) in rows(page) {
        let tests: Vec<&str> = proof.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains(".rs::")).collect();
        // Other tables have names where this one has numbers.
        if let Ok(number) = row.parse::<usize>() {
            if number != due {
                problems.push(Problem::Order(number, due));
            }
            due = number + 1;
            if tests.is_empty() && !proof.contains(WITHOUT) {
                problems.push(Problem::Unproven(number));
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
    if due <= STATEMENTS {
        problems.push(Problem::Missing(due));
    }
    problems
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
        let page = format!("| | Statement | Shown by |\n|---|---|---|\n{}\n", rows.join("\n"));
        let mut problems = check(&page, folder.path());
        problems.retain(|problem| !matches!(problem, Problem::Missing(_)));
        problems
    }

    #[test]
    fn rows_with_tests_or_reasons_pass() {
        let rows = ["| 1 | One | `t.rs::a_test`, `t.rs::other` |", "| 2 | Two, with `a` | Not shown: nobody can. |"];
        assert_eq!(table(&rows), []);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(table(&["| 2 | Two | Not shown: x |"]), [Problem::Order(2, 1)]);
        assert_eq!(table(&["| 1 | One | surely |"]), [Problem::Unproven(1)]);
        for test in ["t.rs::helper", "t.rs::a_tes", "u.rs::a_test"] {
            let row = format!("| 1 | One | `{test}` |");
            assert_eq!(table(&[&row]), [Problem::NoSuchTest("1".to_owned(), test.to_owned())]);
            let row = format!("| a limit | 7 | `{test}` |");
            assert_eq!(table(&[&row]), [Problem::NoSuchTest("a limit".to_owned(), test.to_owned())]);
        }
        assert_eq!(check("", Path::new("")), [Problem::Missing(1)]);
    }

    #[test]
    fn the_page_names_only_tests_that_are_there() {
        let root = crate::programs::repository();
        let page = std::fs::read_to_string(root.join(PAGE)).unwrap();
        let problems: Vec<_> = check(&page, &root).iter().map(Problem::to_string).collect();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
