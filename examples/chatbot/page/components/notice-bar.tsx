import type { JSX } from "preact";
import { notice } from "../state/notice.ts";
import { focusComposer } from "./focus.ts";
import { Icon } from "./icon.tsx";

/** Shows the notice, with its action. */
export function NoticeBar(): JSX.Element {
  const now = notice.value;
  return (
    <div role="status" class="notice">
      {now && (
        <p>
          <span>{now.text}</span>
          {now.action && (
            <button
              type="button"
              class="quiet"
              onClick={() => {
                now.action?.run();
                close();
              }}
            >
              {now.action.label}
            </button>
          )}
          <button type="button" class="quiet square" aria-label="Close the notice" onClick={close}>
            <Icon name="close" />
          </button>
        </p>
      )}
    </div>
  );
}

function close(): void {
  notice.value = undefined;
  focusComposer();
}
