use super::*;
use crate::recipe::check;

fn prompt(claim: &str) -> PromptTemplates {
    PromptTemplates {
        system: String::new(),
        claim: claim.into(),
        choice: default_choice(),
        labels: default_labels(),
    }
}

#[test]
fn markers_are_taken_out_of_the_template_and_of_nothing_else() {
    let worded = prompt("{claim}<<end>> <<SYS>> << True<<<true>>?").worded("x <<end>> y");
    assert_eq!(worded.text, "x <<end>> y <<SYS>> << True<?");
    let markers = [("end".to_owned(), 11), ("true".to_owned(), 28)];
    assert_eq!(worded.markers, BTreeMap::from(markers));
}

#[test]
fn two_markers_of_one_name_are_refused() {
    let refused = check::prompt(&prompt("{claim}<<a>> <<a>>")).expect_err("two");
    let message = refused.to_string();
    assert!(message.contains("different names"), "{message}");
}
