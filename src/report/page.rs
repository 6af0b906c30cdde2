//! A page of headings, sentences, tables and lists, as Markdown or as HTML.

use std::fmt::Write as _;

/// A page.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
enum Block {
    Title(String),
    Heading(String),
    Sentence(String),
    Table { head: Vec<String>, rows: Vec<Vec<String>> },
    List(Vec<String>),
}

impl Page {
    pub(super) fn title(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Title(text.into()));
    }

    pub(super) fn heading(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Heading(text.into()));
    }

    pub(super) fn sentence(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Sentence(text.into()));
    }

    /// A table; `otherwise` is said instead of one without rows.
    pub(super) fn table<const N: usize>(&mut self, head: [&str; N], rows: Vec<[String; N]>, otherwise: &str) {
        if rows.is_empty() {
            return self.sentence(otherwise);
        }
        let rows = rows.into_iter().map(Vec::from).collect();
        self.blocks.push(Block::Table { head: head.map(str::to_owned).into(), rows });
    }

    /// A list; `otherwise` is said instead of an empty one.
    pub(super) fn list(&mut self, entries: Vec<String>, otherwise: &str) {
        if entries.is_empty() {
            return self.sentence(otherwise);
        }
        self.blocks.push(Block::List(entries));
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = String::new();
        for block in &self.blocks {
            let _ = match block {
                Block::Title(text) => writeln!(out, "# {}\n", plain(text)),
                Block::Heading(text) => writeln!(out, "## {}\n", plain(text)),
                Block::Sentence(text) => writeln!(out, "{}\n", plain(text)),
                Block::List(entries) => {
                    entries.iter().for_each(|entry| out.push_str(&format!("- {}\n", plain(entry))));
                    writeln!(out)
                }
                Block::Table { head, rows } => {
                    let line = |cells: &[String]| {
                        let cells: Vec<String> =
                            cells.iter().map(|cell| plain(cell).replace('|', "\\|")).collect();
                        format!("| {} |\n", cells.join(" | "))
                    };
                    out.push_str(&line(head));
                    out.push_str(&format!("|{}\n", "---|".repeat(head.len())));
                    rows.iter().for_each(|row| out.push_str(&line(row)));
                    writeln!(out)
                }
            };
        }
        out
    }

    pub(super) fn html(&self) -> String {
        let title = self.blocks.iter().find_map(|block| match block {
            Block::Title(text) => Some(escaped(text)),
            _ => None,
        });
        let title = title.unwrap_or_default();
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        );
        for block in &self.blocks {
            let _ = match block {
                Block::Title(text) => writeln!(out, "<h1>{}</h1>", escaped(text)),
                Block::Heading(text) => writeln!(out, "<h2>{}</h2>", escaped(text)),
                Block::Sentence(text) => writeln!(out, "<p>{}</p>", escaped(text)),
                Block::List(entries) => {
                    let entries = entries.iter().map(|entry| format!("<li>{}</li>\n", escaped(entry)));
                    writeln!(out, "<ul>\n{}</ul>", entries.collect::<String>())
                }
                Block::Table { head, rows } => {
                    let line = |cells: &[String], kind: &str| {
                        let cell = |cell: &String| {
                            let class = if is_number(cell) { " class=\"n\"" } else { "" };
                            format!("<{kind}{class}>{}</{kind}>", escaped(cell))
                        };
                        format!("<tr>{}</tr>\n", cells.iter().map(cell).collect::<String>())
                    };
                    let body: String = rows.iter().map(|row| line(row, "td")).collect();
                    let head = line(head, "th");
                    writeln!(
                        out,
                        "<div><table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>"
                    )
                }
            };
        }
        out.push_str("</body>\n</html>\n");
        out
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:1.8em}\
div{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{padding:4px 10px;text-align:left;border-bottom:1px solid #8886;vertical-align:top}\
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}";

/// One line: no breaks.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn is_number(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && cell.chars().all(|c| c.is_ascii_digit() || " .,%-×kMG".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut page = Page::default();
        page.title("A <title>");
        page.sentence("One\nline & more");
        page.heading("H");
        page.table(["text", "count"], vec![["a|b <script>alert('x')</script>".into(), "1.5".into()]], "none");
        page.table(["x"], vec![], "No rows.");
        page.list(vec!["an \"entry\"".into()], "none");
        page.list(vec![], "No entries.");
        page
    }

    #[test]
    fn markdown_is_one_line_each() {
        let expected = "# A <title>\n\nOne line & more\n\n## H\n\n| text | count |\n|---|---|\n\
                        | a\\|b <script>alert('x')</script> | 1.5 |\n\nNo rows.\n\n- an \"entry\"\n\nNo entries.\n\n";
        assert_eq!(page().markdown(), expected);
    }

    #[test]
    fn html_has_no_markup_of_others() {
        let html = page().html();
        assert!(!html.contains("<script") && html.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{html}");
        for part in [
            "<title>A &lt;title&gt;</title>",
            "<p>One line &amp; more</p>",
            "<td class=\"n\">1.5</td>",
            "<li>an &quot;entry&quot;</li>",
            "<p>No rows.</p>",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
    }
}
