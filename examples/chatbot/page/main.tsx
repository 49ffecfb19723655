import { render } from "preact";
import { App } from "./components/app.tsx";
import { focusComposer } from "./components/focus.ts";
import { connect } from "./state/live-connection.ts";

const root = document.getElementById("app");
if (root) render(<App />, root);
// Not where the focus would open a keyboard over half of the screen.
if (matchMedia("(hover: hover) and (pointer: fine)").matches) focusComposer();
void connect();
