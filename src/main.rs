fn main() {
    std::process::exit(samcore::cli::run(std::env::args_os()));
}
