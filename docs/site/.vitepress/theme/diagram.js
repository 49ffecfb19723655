// A diagram in Mermaid's language. Its text is shown until it is drawn, and where it cannot be.

import { useData } from "vitepress";
import { defineComponent, h, onMounted, ref, useId, watch } from "vue";

export const Diagram = defineComponent({
  props: { code: { type: String, required: true } },
  setup({ code }) {
    const { isDark } = useData();
    const text = decodeURIComponent(code);
    const drawing = ref("");
    const id = `diagram${useId()}`;
    async function draw() {
      const { default: mermaid } = await import("mermaid");
      mermaid.initialize({ startOnLoad: false, theme: isDark.value ? "dark" : "neutral" });
      const { svg } = await mermaid.render(id, text);
      drawing.value = svg;
    }
    onMounted(draw);
    watch(isDark, draw);
    return () => (drawing.value ? h("div", { class: "diagram", innerHTML: drawing.value }) : h("pre", text));
  },
});
