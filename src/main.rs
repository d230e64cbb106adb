use samcore::device::alloc::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() {
    samcore::cli::end_panics_in_one_line();
    std::process::exit(samcore::cli::run(std::env::args_os()));
}
