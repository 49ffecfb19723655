import DefaultTheme from "vitepress/theme";
import { Diagram } from "./diagram.js";
// oxlint-disable-next-line import/no-unassigned-import -- a stylesheet has no value
import "./style.css";

export default {
  extends: DefaultTheme,
  enhanceApp({ app }) {
    app.component("Diagram", Diagram);
  },
};
