// regl-scatterplot expects this function in a global variable.
import createPubSub from "./vendor/pub-sub-es.js";

globalThis.createPubSub = createPubSub;
