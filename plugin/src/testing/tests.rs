//! Transcripts read well and are the same on every machine.

use super::*;

#[test]
fn a_transcript_reads_well_and_hides_the_machine() -> Result<()> {
    let interview = Interview::default()
        .raw("The colour of")
        .system("Be brief.")
        .user("Where?")
        .user("When?")
        .redact(r"\bseed \d+", "seed [n]")?;
    let long = "word ".repeat(30);
    let said = interview.transcript(&[
        format!(" {long}"),
        "in /tmp/a1b2/model, seed 17".to_owned(),
        "at 2026-01-02T03:04:05.678Z\n\nor 0123abcd-0123-0123-0123-0123456789ab".to_owned(),
    ]);
    let expected = "\
[raw] The colour of
-> word word word word word word word word word word word word word word word word word
word word word word word word word word word word word word word

[system] Be brief.
[user] Where?
-> in [path], seed [n]

[system] Be brief.
[user] When?
-> at [time]

or [uuid]";
    assert_eq!(said, expected);
    Ok(())
}

#[test]
fn a_redaction_that_is_no_pattern_is_refused() {
    let message = Interview::default().redact("(", "x").expect_err("open");
    assert!(message.to_string().contains("redaction"), "{message}");
}

#[test]
fn lines_break_between_words_and_words_do_not_break() {
    let word = "x".repeat(WIDTH + 5);
    assert_eq!(wrapped(&word), std::slice::from_ref(&word));
    assert_eq!(wrapped(&format!("a {word}")), ["a".to_owned(), word]);
    assert_eq!(wrapped("ä\n\nb"), ["ä", "", "b"]);
}
