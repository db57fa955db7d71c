//! Error codes and their pages.

use std::{collections::BTreeSet, path::Path};

use dunlin_broker::error::Code;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The codes that occur in the source of a crate, tests and comments aside.
fn codes_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            codes_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let literals = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for line in literals {
                for (at, _) in line.match_indices("\"DUN-") {
                    let code: String = line[at + 1..].chars().take(8).collect();
                    if code.chars().skip(4).all(|c| c.is_ascii_digit()) && code.len() == 8 {
                        found.insert(code);
                    }
                }
            }
        }
    }
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let mut in_source = BTreeSet::new();
    for member in ["broker", "sync", "bigquery-adapter", "loadtest"] {
        codes_in(&root().join(member).join("src"), &mut in_source);
    }
    let pages = std::fs::read_dir(root().join("docs/errors")).unwrap();
    let pages: BTreeSet<String> = pages
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        .filter(|name| name.starts_with("DUN-"))
        .collect();
    let without_page: Vec<_> = in_source.difference(&pages).collect();
    let without_code: Vec<_> = pages.difference(&in_source).collect();
    assert!(
        without_page.is_empty(),
        "codes without a page in docs/errors: {without_page:?}"
    );
    assert!(
        without_code.is_empty(),
        "pages in docs/errors without a code: {without_code:?}"
    );
    assert!(in_source.len() > Code::ALL.len());
}

#[test]
fn every_page_says_what_happened_and_what_to_do_and_is_in_the_index() {
    let index = std::fs::read_to_string(root().join("docs/errors/README.md")).unwrap();
    for entry in std::fs::read_dir(root().join("docs/errors")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "README" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# {name}: ")), "{name}");
        let title = text.lines().next().unwrap().split_once(": ").unwrap().1;
        assert!(text.contains("\n## What happened\n"), "{name}");
        assert!(text.contains("\n## What to do\n"), "{name}");
        assert!(
            index.contains(&format!("| [{name}]({name}.md) | {title} |\n")),
            "{name} in README.md"
        );
    }
}

#[test]
fn the_brokers_codes_are_distinct_and_in_its_range() {
    let texts: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(texts.len(), Code::ALL.len());
    assert!(
        texts
            .iter()
            .all(|text| text.starts_with("DUN-0") && text.len() == 8),
        "{texts:?}"
    );
}
