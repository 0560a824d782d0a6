use std::path::Path;

use syntune::error::Error;
use syntune::spec::{DataSet, Layers, Spec, nearest, refuse};

fn parse(text: &str) -> Result<Spec, Error> {
    Spec::parse(text, Path::new("a.toml"))
}

/// Line, key and message of a spec's fault.
#[track_caller]
fn fault(text: &str) -> (usize, String, String) {
    match parse(text) {
        Err(Error::Spec { line, key, message, file }) => {
            assert_eq!(file, Path::new("a.toml"));
            (line, key, message)
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn an_empty_file_is_the_default_request() {
    let spec = parse("").unwrap();
    assert_eq!(spec, Spec::default());
    spec.check().unwrap();
}

#[test]
fn examples_load_and_print_what_they_mean() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for file in ["demo.toml", "cifar10.toml", "strided.toml"] {
        let spec = Spec::load(examples.join(file)).unwrap();
        let again = parse(&spec.print()).unwrap();
        assert_eq!(spec, again, "{file}");
        assert_eq!(spec.print(), again.print());
    }
    let cifar = Spec::load(examples.join("cifar10.toml")).unwrap();
    for name in &cifar.operator.start {
        syntune::synth::library::resolve(name).unwrap();
    }
    let demo = Spec::load(examples.join("demo.toml")).unwrap();
    assert_eq!((demo.name.as_str(), demo.data.name), ("demo", DataSet::FashionMnist));
    assert!(demo.budget.minutes <= 15.0, "the demo is promised to end within a quarter of an hour");
    assert_eq!(demo.operator.coefficients["k"], 3);
}

#[test]
fn every_key_set_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.toml");
    std::fs::create_dir(folder.path().join("images")).unwrap();
    let text = r#"
        name = "all keys"
        seed = 9223372036854775807
        slots.layers = ["a.conv1", "b.conv2"]
        backbone = { name = "resnet-small", width = 0x20 }
        [operator]
        max_depth = 4
        max_weights = 3
        start = ["conv1x1", "some text"]
        [operator.coefficients]
        k = 5
        [data]
        name = "cifar-100"
        path = "images"
        [target]
        llvm = "llvm -mcpu=core-avx2"
        batch = 8
        [budget]
        minutes = 1
        trials = 1_000
        flops_ratio = 0.5
        params_ratio = 2
        accuracy_drop = 0
        [train]
        lr = 1e-3
        [tune]
        strategy = "random"
    "#;
    std::fs::write(&file, text).unwrap();
    let spec = Spec::load(&file).unwrap();
    assert_eq!(spec.data.path.as_deref(), Some(folder.path().join("images").as_path()), "relative to the spec file");
    assert_eq!(spec.slots.layers, Layers::Named(vec!["a.conv1".into(), "b.conv2".into()]));
    assert_eq!((spec.backbone.width, spec.budget.trials), (32, Some(1000)));
    assert_eq!(spec.operator.coefficients.len(), 1, "a spec's coefficients replace the default ones");
    assert_eq!(parse(&spec.print()).unwrap(), spec);
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
}

#[test]
fn each_fault_names_line_and_key_and_the_way_out() {
    let table: &[(&str, usize, &str, &str)] = &[
        // not TOML
        ("name = \n", 1, "TOML", "examples/demo.toml"),
        ("seed = 1\nname = \"a", 2, "TOML", "examples/demo.toml"),
        ("seed = 1\n\nseed = 2\n", 3, "TOML", "duplicate key"),
        ("[budget]\nminutes 3\n", 2, "TOML", "examples/demo.toml"),
        // unknown keys
        ("sed = 1\n", 1, "sed", "did you mean `seed`?"),
        ("[train]\nlr = 0.1\nepoch = 3\n", 3, "train.epoch", "did you mean `epochs`?"),
        ("[budgets]\nminutes = 3\n", 1, "budgets", "did you mean `budget`?"),
        ("[train]\nminutes = 3\n", 2, "train.minutes", "it belongs in [budget]"),
        ("epochs = 3\n", 1, "epochs", "it belongs in [train]"),
        ("[train]\nseed = 3\n", 2, "train.seed", "before the first section"),
        ("[tune]\nzzzzzz = 3\n", 2, "tune.zzzzzz", "may hold quick_trials, strategy, trials"),
        // unknown names
        ("[backbone]\nname = \"resnet-smal\"\n", 2, "backbone.name", "did you mean \"resnet-small\"? known: resnet-small"),
        ("[data]\n\nname = \"cifar10\"\n", 3, "data.name", "did you mean \"cifar-10\"? known: fashion-mnist, cifar-10, cifar-100"),
        ("[data]\nname = \"imagenet\"\n", 2, "data.name", "known: fashion-mnist, cifar-10, cifar-100"),
        ("[tune]\nstrategy = \"grid\"\n", 2, "tune.strategy", "known: random, evolution"),
        // wrong types
        ("seed = \"1\"\n", 1, "seed", "a whole number, not the text \"1\"; for example `seed = 0`"),
        ("seed = -1\n", 1, "seed", "at least 0, not -1"),
        ("seed = 9223372036854775808\n", 1, "seed", "up to 9223372036854775807"),
        ("name = 3\n", 1, "name", "a text in quotes, not the number 3"),
        ("budget = 3\n", 1, "budget", "write [budget] on a line of its own"),
        ("[[budget]]\nminutes = 3\n", 1, "budget", "write [budget] on a line of its own"),
        ("[backbone]\nwidth = 1.5\n", 2, "backbone.width", "a whole number, not the number 1.5; for example `width = 16`"),
        ("[backbone]\nwidth = 5000000000\n", 2, "backbone.width", "u32"),
        ("[backbone]\nname = 2021-01-01\n", 2, "backbone.name", "not the date"),
        ("[budget]\nminutes = \"ten\"\n", 2, "budget.minutes", "a number, not the text \"ten\"; for example `minutes = 60.0`"),
        ("[budget]\ntrials = true\n", 2, "budget.trials", "a whole number, not true"),
        ("[slots]\nlayers = 3\n", 2, "slots.layers", "not the number 3"),
        ("[slots]\nlayers = [\"a\",\n 3]\n", 2, "slots.layers", "a list of texts, not one with the number 3"),
        ("[operator]\nstart = \"conv1x1\"\n", 2, "operator.start", "a list of texts, not the text"),
        ("[operator]\ncoefficients = 3\n", 2, "operator.coefficients", "write coefficients = { k = 3 }"),
        (
            "[operator]\ncoefficients = { k = \"3\" }\n",
            2,
            "operator.coefficients.k",
            "a whole number, not the text \"3\"; for example `k = 3`",
        ),
        // impossible values
        ("name = \" \"\n", 1, "name", "is empty"),
        ("[backbone]\nwidth = 0\n", 2, "backbone.width", "from 1 to 512"),
        ("[backbone]\nwidth = 513\n", 2, "backbone.width", "from 1 to 512"),
        ("[slots]\nlayers = []\n", 2, "slots.layers", "nothing would be replaced"),
        ("[slots]\nlayers = [\"a\", \"a\"]\n", 2, "slots.layers", "stands twice"),
        ("[operator]\nmax_depth = 0\n", 2, "operator.max_depth", "from 1 to 32"),
        ("[operator]\nmax_weights = 4\n", 2, "operator.max_weights", "from 1 to 3"),
        ("[operator.coefficients]\nk = 3\ns = 0\n", 1, "operator.coefficients", "s = 0 is out of range"),
        ("[operator]\ncoefficients = { K = 3 }\n", 2, "operator.coefficients", "lower-case letter"),
        ("[operator]\nstart = [\"\"]\n", 2, "operator.start", "an operator is empty"),
        ("[data]\npath = \"no/such/folder\"\n", 2, "data.path", "leave path out"),
        ("[target]\nllvm = \"cuda\"\n", 2, "target.llvm", "write \"host\""),
        ("[target]\nthreads = 0\n", 2, "target.threads", "from 1 to"),
        ("[target]\nthreads = 100000\n", 2, "target.threads", "this machine runs"),
        ("[target]\nbatch = 0\n", 2, "target.batch", "from 1 to 1024"),
        ("[budget]\nminutes = 0\n", 2, "budget.minutes", "greater than 0"),
        ("[budget]\nminutes = -3\n", 2, "budget.minutes", "greater than 0"),
        ("[budget]\nminutes = nan\n", 2, "budget.minutes", "greater than 0"),
        ("[budget]\nminutes = inf\n", 2, "budget.minutes", "greater than 0"),
        ("[budget]\ntrials = 0\n", 2, "budget.trials", "at least 1"),
        ("[budget]\nflops_ratio = 0\n", 2, "budget.flops_ratio", "greater than 0"),
        ("[budget]\nparams_ratio = -1.0\n", 2, "budget.params_ratio", "greater than 0"),
        ("[budget]\ntrain_ratio = 0\n", 2, "budget.train_ratio", "greater than 0"),
        ("[budget]\naccuracy_drop = -0.5\n", 2, "budget.accuracy_drop", "from 0 to 100"),
        ("[budget]\naccuracy_drop = nan\n", 2, "budget.accuracy_drop", "from 0 to 100"),
        ("[train]\nepochs = 0\n", 2, "train.epochs", "from 1 to"),
        ("[train]\nlr = 0.0\n", 2, "train.lr", "a learning rate"),
        ("[train]\nn_finalists = 1001\n", 2, "train.n_finalists", "from 0 to"),
        ("[tune]\ntrials = 4\n", 1, "tune.quick_trials", "from 1 to 4 (tune.trials)"),
        ("train = { epochs = 1,\n batch = 0 }\n", 2, "train.batch", "from 1 to"),
        ("train.lr = 0.1\ntrain.batch = 0\n", 2, "train.batch", "from 1 to"),
    ];
    for &(text, line, key, needle) in table {
        let (at, named, message) = fault(text);
        assert_eq!((at, named.as_str()), (line, key), "{text}{message}");
        assert!(message.contains(needle), "{text}{message}\nlacks {needle:?}");
    }
}

#[test]
fn a_fault_prints_as_file_line_key_and_message() {
    let error = parse("\n[budget]\nminutes = -1\n").unwrap_err();
    insta::assert_snapshot!(error, @"a.toml:3: budget.minutes: -1 is impossible; choose a number of minutes greater than 0");
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"seed = 1\n\xff\xfe").unwrap();
    let large = folder.path().join("large.toml");
    std::fs::write(&large, vec![b'#'; 2 << 20]).unwrap();
    let cases = [
        (folder.path().join("none.toml"), 1, "cannot be read (No such file"),
        (folder.path().to_path_buf(), 1, "cannot be read (Is a directory"),
        (binary, 2, "is not UTF-8"),
        (large, 1, "larger than 1 MiB"),
    ];
    for (path, at, needle) in cases {
        match Spec::load(&path) {
            Err(Error::Spec { file, line, key, message }) => {
                assert_eq!((file, line, key.as_str()), (path, at, "file"));
                assert!(message.contains(needle) && message.contains("examples/demo.toml"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_later_room_can_refuse_a_key_at_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spec.toml");
    std::fs::write(&file, "seed = 1\n[slots]\nlayers = [\"nowhere\"]\n").unwrap();
    let line = |key: &str| match refuse(&file, key, "no such slot") {
        Error::Spec { line, .. } => line,
        other => panic!("{other:?}"),
    };
    assert_eq!((line("slots.layers"), line("slots.other"), line("train.lr")), (3, 2, 1));
}

#[test]
fn a_spec_changed_by_code_is_checked_without_a_file() {
    let mut spec = Spec::default();
    spec.budget.minutes = f64::NAN;
    assert!(matches!(spec.check(), Err(Error::Invalid(m)) if m.starts_with("budget.minutes: NaN is impossible")));
    spec.budget.minutes = 1.0;
    spec.seed = u64::MAX;
    assert!(matches!(spec.check(), Err(Error::Invalid(m)) if m.starts_with("seed: ")));
}

#[test]
fn the_nearest_name_is_near() {
    assert_eq!(nearest("minuets", ["minutes", "trials"]), Some("minutes"));
    assert_eq!(nearest("EPOCHS", ["epochs"]), Some("epochs"));
    assert_eq!(nearest("x", ["minutes"]), None);
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "[a-z\\[\\]={}\"'\n .0-9#é-]{0,80}") {
        let _ = parse(&text);
    }
}
