//! A lab's page: its text, what it promises a run to print, its answers. Pure.
//!
//! A fenced block whose first line is `$ cottage lab run 4` holds the expected output of that command.
//! `<...>`, with any words between the brackets, stands for whatever differs from host to host. Where
//! back ends differ, there is a block for each, told apart by a comment: `$ cottage lab run 4  # on PVM`.
//! Read next: [`super::tale`].

/// The heading above the answers.
const ANSWERS: &str = "\n## Answers\n";

/// The blocks that `page` shows for `command`, each without the line with the command.
pub fn outputs<'a>(page: &'a str, command: &str) -> Vec<Vec<&'a str>> {
    let blocks = page.split("```").skip(1).step_by(2);
    blocks
        .filter_map(|block| {
            // The fence's first line says what the block is in.
            let mut lines = block.lines().skip(1);
            let typed = lines.next()?.strip_prefix("$ ")?;
            let typed = typed.split('#').next()?.trim();
            (typed == command).then(|| lines.collect())
        })
        .collect()
}

/// Every command whose output the page shows.
pub fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```").skip(1).step_by(2);
    let typed = blocks.filter_map(|block| block.lines().nth(1)?.strip_prefix("$ "));
    typed
        .filter_map(|line| Some(line.split('#').next()?.trim()))
        .collect()
}

/// Whether `line` is what `pattern` promises, in which `<...>` stands for one character or more.
pub fn matches(pattern: &str, line: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('<') else {
        return pattern == line;
    };
    let Some((_, after)) = rest.split_once('>') else {
        return pattern == line;
    };
    let Some(line) = line.strip_prefix(before) else {
        return false;
    };
    let mut ends = line.char_indices().map(|(at, c)| at + c.len_utf8());
    ends.any(|end| matches(after, line.get(end..).unwrap_or_default()))
}

/// Compares what was told with the blocks of a page.
///
/// # Errors
/// Where it first differs from the block that it resembles longest.
pub fn compare(blocks: &[Vec<&str>], told: &[String]) -> Result<(), String> {
    let mut best: Option<(usize, String)> = None;
    for block in blocks {
        let agree = block.iter().zip(told);
        let agree = agree.take_while(|(pattern, line)| matches(pattern, line));
        let at = agree.count();
        if at == block.len() && at == told.len() {
            return Ok(());
        }
        let nothing = "(nothing more)";
        let wanted = block.get(at).copied().unwrap_or(nothing);
        let found = told.get(at).map_or(nothing, String::as_str);
        let text = format!("line {}:\n  page: {wanted}\n  here: {found}", at + 1);
        if best.as_ref().is_none_or(|(most, _)| at > *most) {
            best = Some((at, text));
        }
    }
    Err(best.map_or("the page shows no output of it".into(), |(_, text)| text))
}

/// The page as it is read: the answers are left out, unless asked for.
pub fn shown(page: &str, answers: bool) -> String {
    match page.split_once(ANSWERS) {
        Some((before, after)) if !answers => {
            // What stands behind the answers belongs to the page again.
            let rest = after
                .split_once("\n## ")
                .map(|(_, rest)| format!("\n## {rest}"));
            format!("{before}{}", rest.unwrap_or_default())
        }
        _ => page.to_owned(),
    }
}

/// An answer to a page's first question.
#[derive(Debug)]
pub struct Answer {
    /// What is right, in all its spellings; numbers in any base.
    pub right: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

impl Answer {
    /// Whether `given` is right.
    pub fn accepts(&self, given: &str) -> bool {
        let given = plain(given);
        self.right.iter().any(|right| {
            let right = plain(right);
            right == given || number(&right).is_some_and(|n| number(&given) == Some(n))
        })
    }
}

fn plain(text: &str) -> String {
    text.trim().trim_end_matches('.').to_lowercase()
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Lab\n\n```text\n$ cottage lab run 4\na <n>\nb\n```\n\nor\n\n\
        ```text\n$ cottage lab run 4   # on PVM\nc\n```\n\n## Answers\n\n1. x\n\n## Code\n\ny\n";

    #[test]
    fn blocks_of_a_command_are_found_and_others_not() {
        let blocks = outputs(PAGE, "cottage lab run 4");
        assert_eq!(blocks, [vec!["a <n>", "b"], vec!["c"]]);
        assert!(outputs(PAGE, "cottage lab run 40").is_empty());
        assert_eq!(commands(PAGE), ["cottage lab run 4"; 2]);
    }

    #[test]
    fn brackets_stand_for_one_character_or_more() {
        assert!(matches("a <n> b <m>", "a 12 b x"));
        assert!(matches("took <n>", "took 3 us"));
        assert!(!matches("a <n> b", "a  b"));
        assert!(!matches("a <n> b", "a 1 c"));
        assert!(matches("1 < 2", "1 < 2"));
    }

    #[test]
    fn difference_names_the_line_of_the_nearest_block() {
        let blocks = outputs(PAGE, "cottage lab run 4");
        let told = |lines: &[&str]| lines.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(compare(&blocks, &told(&["a 7", "b"])), Ok(()));
        assert_eq!(compare(&blocks, &told(&["c"])), Ok(()));
        assert_eq!(
            compare(&blocks, &told(&["a 7", "x"])),
            Err("line 2:\n  page: b\n  here: x".into())
        );
        assert!(compare(&blocks, &told(&["a 7", "b", "x"])).is_err());
        assert!(compare(&blocks, &told(&["a 7"])).is_err());
        assert!(compare(&[], &told(&[])).is_err());
    }

    #[test]
    fn answers_are_left_out_unless_asked_for() {
        let short = shown(PAGE, false);
        assert!(
            !short.contains("1. x") && short.contains("## Code"),
            "{short}"
        );
        assert_eq!(shown(PAGE, true), PAGE);
    }

    #[test]
    fn answers_take_any_spelling_of_a_number() {
        let answer = Answer {
            right: &["0x1001", "behind the hlt"],
            why: "",
        };
        assert!(answer.accepts("4097") && answer.accepts(" Behind the HLT. "));
        assert!(!answer.accepts("0x1000"));
    }
}
