//! `egress-tracer top` apart from where its sessions come from: the board of what is going on, the keys that change what
//! is shown of it, how it is drawn, and the terminal, which is left as it was found.

mod board;
mod keys;
mod screen;
mod view;

pub use board::{Board, Sort};
pub use keys::{Keys, Mode, Outcome};
pub use screen::Screen;
pub use view::{Look, draw};
