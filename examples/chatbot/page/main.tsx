import { render } from "preact";
import { App } from "./components/app.tsx";
import { connect } from "./state/live-connection.ts";

const root = document.getElementById("app");
if (root) render(<App />, root);
void connect();
