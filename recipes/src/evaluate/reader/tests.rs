use super::*;

fn question(first: &str, second: &str, right: usize) -> Question {
    Question {
        text: String::new(),
        right,
        options: [first.into(), second.into()],
    }
}

#[test]
fn answers_are_read_as_the_table_says() {
    let labels = ["A".to_owned(), "B".to_owned()];
    let mut wrong = Vec::new();
    let mut cases = 0;
    for line in include_str!("../answers.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[_, asked, text, expected, _] = cells.as_slice() else {
            continue;
        };
        let options = match asked {
            "claim" => ["true", "false"],
            "choice" => ["red", "blue"],
            "whales" => ["A whale", "a blue whale"],
            _ => continue,
        };
        let text = text.trim_matches('`').replace("\\n", "\n");
        let said = (0..2).map(|right| {
            let question = question(options[0], options[1], right);
            verdict(&text, &question, &labels)
        });
        let read = match said.collect::<Vec<_>>().as_slice() {
            [Verdict::Positive, Verdict::Negative] => "A",
            [Verdict::Negative, Verdict::Positive] => "B",
            [Verdict::Unscored, Verdict::Unscored] => "neither",
            _ => "one thing for A and another for B",
        };
        cases += 1;
        if read != expected {
            wrong.push(format!("{asked}: `{text}` is {expected}, read as {read}"));
        }
    }
    assert!(cases > 70, "only {cases} cases found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn labels_need_not_be_letters() {
    let labels = ["1".to_owned(), "2".to_owned()];
    let question = question("in 3.5 days", "in 2 days", 1);
    let read = |text| verdict(text, &question, &labels);
    assert_eq!(read("(2)"), Verdict::Positive);
    assert_eq!(read("In 2 days."), Verdict::Positive);
    assert_eq!(read("in 3.5 days"), Verdict::Negative);
    assert_eq!(read("22"), Verdict::Unscored);
}
