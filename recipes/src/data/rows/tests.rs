use super::*;
use crate::data::texts::texts;
use crate::recipe::Texts;

/// The cells `claim` and `label` of each row of a file with this content, with its line.
fn read(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<(usize, String, String)>> {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("a file");
    let file = DataFile::read(&path)?;
    let cells = |row: DataRow| {
        let both = (row.text("claim")?, row.text("label")?);
        Ok((row.stored.line, both.0, both.1))
    };
    file.rows().map(cells).collect()
}

fn refused(name: &str, content: impl AsRef<[u8]>) -> String {
    read(name, content).expect_err(name).to_string()
}

/// Two rows, whose texts are not ASCII.
fn expected(lines: [usize; 2]) -> Vec<(usize, String, String)> {
    let row = |line, claim: &str, label: &str| (line, claim.to_owned(), label.to_owned());
    vec![
        row(lines[0], "Zürich ist größer", "true"),
        row(lines[1], "ein \"Rätsel\", 日本", "0"),
    ]
}

const CSV: &str = "claim,label\nZürich ist größer,true\n\"ein \"\"Rätsel\"\", 日本\",0\n";

fn utf16(text: &str, word: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let text = format!("\u{feff}{text}");
    text.encode_utf16().flat_map(word).collect()
}

#[test]
fn the_same_rows_in_every_container_and_encoding() -> Result<()> {
    let one = "{\"claim\": \"Zürich ist größer\", \"label\": true}";
    let two = "{\"label\": 0, \"claim\": \" ein \\\"Rätsel\\\", 日本\"}";
    let tsv = "claim\tlabel\nZürich ist größer\ttrue\n\"ein \"\"Rätsel\"\", 日本\"\t0\n";
    for (name, text, lines) in [
        ("a.csv", CSV.to_owned(), [2, 3]),
        ("a.CSV", CSV.replace('\n', "\r\n"), [2, 3]),
        ("a.tsv", tsv.to_owned(), [2, 3]),
        ("a.jsonl", format!("{one}\n\n{two}\n"), [1, 3]),
        ("a.json", format!("{one}\r\n{two}"), [1, 2]),
        ("a.json", format!("[{one},\n {two}]"), [1, 2]),
        ("a.jsonl", format!("\n[\n{one}\n,{two}\n]\n"), [3, 4]),
        (
            "a.json",
            format!("[\n{}]", [one, two].join(",\n\n").replace(", \"", ",\n\"")),
            [2, 5],
        ),
        (
            "a.json",
            format!("{one}{two}").replace('{', "\n{\n"),
            [2, 4],
        ),
    ] {
        let encoded = [
            text.clone().into_bytes(),
            format!("\u{feff}{text}").into_bytes(),
            utf16(&text, u16::to_le_bytes),
            utf16(&text, u16::to_be_bytes),
        ];
        for bytes in encoded {
            assert_eq!(read(name, &bytes)?, expected(lines), "{name}: {text}");
        }
    }
    Ok(())
}

#[test]
fn a_cell_may_have_several_lines_and_blank_rows_are_left_out() -> Result<()> {
    let text = "claim,label\n\"one\ntwo\",true\n,\n\nthree,false\n";
    let rows = read("a.csv", text)?;
    let found: Vec<_> = rows.iter().map(|(l, c, _)| (*l, c.as_str())).collect();
    assert_eq!(found, [(2, "one\ntwo"), (6, "three")]);
    Ok(())
}

#[test]
fn other_encodings_are_named_by_line_with_the_way_out() {
    let latin = |c: char| u8::try_from(u32::from(c)).unwrap_or(b'?');
    let latin: Vec<u8> = CSV.chars().map(latin).collect();
    let no_mark = utf16(CSV, u16::to_le_bytes).split_off(2);
    let utf32: Vec<u8> = [0xff, 0xfe, 0, 0, b'c', 0, 0, 0].into();
    let cut = utf16(CSV, u16::to_le_bytes)[..21].to_vec();
    for (bytes, said) in [
        (
            latin,
            [
                "line 2: ",
                "0xFC, `ü` in Latin-1",
                "iconv -f WINDOWS-1252 -t UTF-8",
            ],
        ),
        (
            no_mark,
            ["line 1: ", "without a byte order mark", "-f UTF-16LE"],
        ),
        (utf32, ["line 1: ", "UTF-32", "-f UTF-32"]),
        (cut, ["line 1: ", "damaged UTF-16", "-f UTF-16"]),
    ] {
        for name in ["a.csv", "a.jsonl"] {
            let message = refused(name, &bytes);
            for part in said {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
    }
}

#[test]
fn missing_values_are_never_texts() {
    for (name, text, said) in [
        (
            "a.csv",
            "claim,label\nx,\n",
            "line 2, column `label`: expected a value, found nothing",
        ),
        (
            "a.csv",
            "claim,label\nx,1\n  ,1\n",
            "line 3, column `claim`: expected a value, found nothing",
        ),
        (
            "a.csv",
            "claim,label\nnan,1\n",
            "column `claim`: expected a value, found `nan`, a missing value",
        ),
        (
            "a.csv",
            "claim,label\nx, NULL \n",
            "`NULL`, a missing value",
        ),
        (
            "a.jsonl",
            "{\"claim\": null, \"label\": 1}",
            "line 1, column `claim`: expected a value, found null",
        ),
        (
            "a.jsonl",
            "{\"claim\": \"x\", \"label\": NaN}",
            "line 1, column `label`: expected a value, found `NaN`",
        ),
        (
            "a.json",
            "[{\"claim\": \"a NaN\", \"label\": 1},\n{\"claim\": NaN, \"label\": 1}]",
            "line 2, column `claim`",
        ),
        (
            "a.json",
            "[{\"claim\": \"x\", \"label\": \"\"}]",
            "column `label`: expected a value, found nothing",
        ),
        (
            "a.jsonl",
            "{\"claim\": \"x\", \"label\": 1}\n{\"claim\": \"y\"}",
            "line 2, column `label`: expected a value, found nothing",
        ),
        (
            "a.jsonl",
            "{\"claim\": [1], \"label\": 1}",
            "column `claim`: expected one value, found a list",
        ),
        (
            "a.json",
            "{\"claim\": {\"0\": \"x\"}, \"label\": {\"0\": 1}}",
            "column `claim`: expected one value, found an object",
        ),
    ] {
        let message = refused(name, text);
        assert!(message.contains(said), "{said}: {message}");
    }
}

#[test]
fn what_is_no_table_is_named_by_its_line() {
    for (name, text, said) in [
        (
            "a.csv",
            "claim;label\nx;1\n",
            "separated by semicolons; save it with commas, or with tabs as .tsv",
        ),
        (
            "a.csv",
            "claim;label\nx, or y;1\n",
            "line 2: expected 1 cells, as in the header, found 2; its columns seem to be separated by semicolons",
        ),
        ("a.csv", "claim\tlabel\nx\t1\n", "separated by tabs"),
        ("a.csv", "claim|label\nx|1\n", "separated by `|`"),
        (
            "a.tsv",
            "claim,label\nx,1\n",
            "separated by commas; save it with tabs",
        ),
        (
            "a.csv",
            "claim,label\nx,1\ny\n",
            "line 3: expected 2 cells, as in the header, found 1",
        ),
        (
            "a.csv",
            "claim,label\n\"x\ny\",1\nz,1,2\n",
            "line 4: expected 2 cells",
        ),
        (
            "a.csv",
            "claim,label,claim\nx,1,y\n",
            "line 1: expected columns with different names, found `claim` twice",
        ),
        (
            "a.csv",
            "claim,label\nx,1\ny,\"1\nz,0\n",
            "line 3: expected a readable row, found a quotation mark",
        ),
        (
            "a.jsonl",
            "{\"claim\": \"x\", \"claim\": \"y\"}",
            "line 1: expected columns with different names, found `claim` twice",
        ),
        (
            "a.json",
            "[{\"claim\": \"x\"},\n {\"claim\": \"y\"",
            "line 2: expected a JSON object",
        ),
        (
            "a.json",
            "[{\"claim\": \"x\", \"label\": 1},\n 7]",
            "line 2: expected a JSON object",
        ),
        (
            "a.jsonl",
            "{\"claim\": \"x\", \"label\": 1}\n{claim: 1}",
            "line 2: expected a JSON object",
        ),
        (
            "a.jsonl",
            "7\n",
            "line 1: expected a JSON object with a value for each column, found invalid type: integer `7`",
        ),
        ("a.json", "[]", "at least one row"),
        ("a.xlsx", "", "a .csv or .jsonl file"),
    ] {
        let message = refused(name, text);
        assert!(message.contains(said), "{said}: {message}");
    }
}

#[test]
fn a_large_file_is_read_in_time_that_grows_with_it() -> Result<()> {
    let json = "{\"claim\": \"the river is wide\", \"label\": 1},\n".repeat(60_000);
    let json = format!("[{}]", json.trim_end_matches(",\n"));
    let csv = "claim,label\n".to_owned() + &"\"the river\nis wide\",1\n".repeat(60_000);
    let began = std::time::Instant::now();
    let lines = |rows: Vec<(usize, String, String)>| rows.last().map(|row| (rows.len(), row.0));
    assert_eq!(lines(read("a.json", json)?), Some((60_000, 60_000)));
    assert_eq!(lines(read("a.csv", csv)?), Some((60_000, 120_000)));
    // A second each without optimisation; counting lines anew for each row takes minutes.
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn texts_have_their_blanks_in_json() -> Result<()> {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("a.json");
    std::fs::write(&file, "[{\"Text\": \" one\\n\"}]").expect("a file");
    let text = "text".into();
    assert_eq!(texts(&Texts { file, text })?, [" one\n"]);
    Ok(())
}
