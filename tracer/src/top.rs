//! The parts of `egress-tracer top`: the counted sessions, the view that keys change, how both are drawn, and the
//! terminal, which is left as it was found.

mod draw;
mod screen;
mod state;
mod view_state;

pub use draw::{Theme, draw};
pub use screen::Screen;
pub use state::{Sort, State};
pub use view_state::{Mode, Outcome, ViewState};
