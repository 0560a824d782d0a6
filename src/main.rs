fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", "compile"] => syntune::tune::worker::compile(),
        ["worker", "measure"] => syntune::tune::worker::measure(),
        _ => Ok(()),
    };
    if let Err(e) = done {
        eprintln!("error: {e}");
        std::process::exit(2);
    }
}
